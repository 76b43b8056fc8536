"""What a world is good for, by its errors on recordings that it was not trained on (`validity.Validity`)."""
