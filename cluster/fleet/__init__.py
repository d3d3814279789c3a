"""A fleet's machines before Russet runs on them: what each has, what is wrong, and what to do about it."""
