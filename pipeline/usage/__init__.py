"""What is owed: transitions become usage records with ids that a replay gives again."""
