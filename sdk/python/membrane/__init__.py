"""Write samplers, policies, tools and agents for Membrane in Python."""
