"""What a line of a command's own begins with in its job's log, where Ray and libraries write as well.

`DATA` lines are pieces of a folder that the command sends, in base64.
"""

OUT, ERR, DATA = "out| ", "err| ", "dat| "
