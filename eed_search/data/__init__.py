"""Images: where they come from (`sources`) and which of them may be used for what (`splits`).

Imports nothing: `eed-search check` reads a source without loading torch.
"""
