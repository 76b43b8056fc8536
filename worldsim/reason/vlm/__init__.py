"""The vision-language model behind the critic: loading, encoding of items, replies and scores of options."""
