"""Images of MuJoCo scenes by ray casting, OpenGL optional."""
