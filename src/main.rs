//! `glance-cache`: acts on Glance's image cache directories.

#[allow(dead_code)]
mod legacy;
#[allow(dead_code)]
mod output;

fn main() {}
