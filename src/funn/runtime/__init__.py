"""What concerns this process: seeds, threads, memory, other processes, fast layers."""
