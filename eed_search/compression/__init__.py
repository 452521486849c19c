"""From the dense base to a member: importance scores, masks, physically removed channels."""
