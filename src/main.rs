//! `glance-cache`: acts on Glance's image cache directories.

fn main() {}
