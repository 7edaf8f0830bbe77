"""Stand-ins that ship with the package: a marketplace, an offline teacher, a small backbone."""
