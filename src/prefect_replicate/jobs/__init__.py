"""From a call in a flow to a job at Replicate and back: created once, watched, canceled."""
