"""What all else rests on: programs, files and packages of the host."""
