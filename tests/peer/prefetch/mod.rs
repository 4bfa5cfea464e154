//! `prefetch` with real parts: database servers, web servers, Ceph, Glance reading the result, small file
//! systems.

mod databases;
mod disk;
mod glance;
mod nginx;
mod rbd;
mod s3;
mod stores;
mod system_calls;
mod terminal;
mod unavailable;
