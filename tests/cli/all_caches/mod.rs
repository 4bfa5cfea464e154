//! All image caches of a host: which there are, what is pruned and cleaned in them, what crashed downloads
//! left.

mod declared;
mod images;
mod leftovers;
mod prune;
