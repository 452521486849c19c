"""Where finished work is kept: the store of stages by content, and the storage that machines share."""
