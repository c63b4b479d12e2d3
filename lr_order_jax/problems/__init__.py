"""Tasks behind the `Problem` protocol: all that is known of a task stands in here."""
