"""What it means: a conversation's events and a policy become transitions."""
