//! `glance-cache`: acts on Glance's image cache directories.

#![allow(dead_code, unused_imports)]

mod config;

fn main() {}
