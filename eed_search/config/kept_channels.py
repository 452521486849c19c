"""How many channels a size keeps: one rule for the file's check and for the pruning."""

from __future__ import annotations


def nearest_blocks(num_channels: int, fraction: float, block: int) -> int:
    """Round a share of the channels to blocks; exactly half a block goes to the even neighbour, as `round` does.

    Args:
        num_channels: Before.
        fraction: In (0, 1].
        block: Channels are kept in multiples of this.

    Returns:
        A count of blocks; 0 where the share is at most half a block.
    """
    return round(fraction * num_channels / block)


def kept_channels(num_channels: int, fraction: float, block: int) -> int:
    """How many channels stay: the nearest multiple of the block, at least one block, at most all.

    Args:
        num_channels: Before.
        fraction: In (0, 1].
        block: Channels are kept in multiples of this.

    Returns:
        A count in 1..num_channels; a group narrower than one block stays whole.
    """
    return min(num_channels, max(1, nearest_blocks(num_channels, fraction, block)) * block)
