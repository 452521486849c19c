"""Members become a team: subsets, robust diversity, joint loss, gate."""
