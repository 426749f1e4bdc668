"""What a job left behind, kept before Replicate deletes it an hour later."""
