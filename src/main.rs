//! `glance-cache`: acts on Glance's image cache directories.

#[allow(dead_code)]
mod legacy;

fn main() {}
