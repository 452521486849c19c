"""What a process asks the operating system: cores, memory, processes, private folders, sockets, file modes."""
