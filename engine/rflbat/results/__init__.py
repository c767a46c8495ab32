"""What a run leaves behind: its folder, checkpoints, tables and figures."""
