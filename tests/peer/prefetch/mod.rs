//! `prefetch` with real parts: database servers, web servers, Ceph, Swift, Glance reading the result, small file
//! systems.

mod api;
mod databases;
mod disk;
mod glance;
mod nginx;
mod rbd;
mod s3;
mod stores;
mod swift;
mod system_calls;
mod terminal;
mod unavailable;
