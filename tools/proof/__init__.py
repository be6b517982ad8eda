"""What a model that was trained with the shipped commands has learned, beside what it could know without looking."""
