"""LeRobotDataset v3.0 folders: format, reading, writing."""
