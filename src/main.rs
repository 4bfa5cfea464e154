//! `glance-cache`: acts on Glance's image cache directories.

mod cache;
mod interrupt;

fn main() {}
