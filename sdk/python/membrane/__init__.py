"""Write samplers, policies and tools for Membrane in Python."""
