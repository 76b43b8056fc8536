"""Questions about videos: where videos come from, which frames are asked about, and the item that is shown."""
