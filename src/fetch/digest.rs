//! The digests that Glance's records name, computed block by block.
//!
//! `os_hash_algo` is the name that Glance passed to Python's hashlib, in hashlib's spelling or in OpenSSL's.
//! This module knows the algorithms that make sense for an image. A record with any other name can still be
//! verified by its MD5 checksum.

use std::fmt::Write as _;

use blake2::{Blake2b512, Blake2s256};
use md5::Md5;
use ring::digest as fast;
use sha2::Sha224;
use sha2::digest::DynDigest;
use sha3::{Sha3_224, Sha3_256, Sha3_384, Sha3_512};

use crate::database::images::ImageRecord;

/// A digest algorithm.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Algorithm {
    Md5,
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
    Sha512Of256,
    Sha3Of224,
    Sha3Of256,
    Sha3Of384,
    Sha3Of512,
    Blake2b,
    Blake2s,
}

impl Algorithm {
    /// Returns the algorithm that hashlib knows by this name.
    fn named(name: &str) -> Option<Self> {
        let plain: String =
            name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
        Some(match plain.as_str() {
            "md5" => Algorithm::Md5,
            "sha1" => Algorithm::Sha1,
            "sha224" | "sha2224" => Algorithm::Sha224,
            "sha256" | "sha2256" => Algorithm::Sha256,
            "sha384" | "sha2384" => Algorithm::Sha384,
            "sha512" | "sha2512" => Algorithm::Sha512,
            "sha512256" | "sha2512256" => Algorithm::Sha512Of256,
            "sha3224" => Algorithm::Sha3Of224,
            "sha3256" => Algorithm::Sha3Of256,
            "sha3384" => Algorithm::Sha3Of384,
            "sha3512" => Algorithm::Sha3Of512,
            "blake2b" | "blake2b512" => Algorithm::Blake2b,
            "blake2s" | "blake2s256" => Algorithm::Blake2s,
            _ => return None,
        })
    }

    /// Returns the digest of no bytes, to be updated.
    pub(super) fn start(self) -> Digest {
        let quick = |algorithm| Digest::Fast(Box::new(fast::Context::new(algorithm)));
        match self {
            Algorithm::Sha1 => quick(&fast::SHA1_FOR_LEGACY_USE_ONLY),
            Algorithm::Sha256 => quick(&fast::SHA256),
            Algorithm::Sha384 => quick(&fast::SHA384),
            Algorithm::Sha512 => quick(&fast::SHA512),
            Algorithm::Sha512Of256 => quick(&fast::SHA512_256),
            Algorithm::Md5 => Digest::Plain(Box::new(Md5::default())),
            Algorithm::Sha224 => Digest::Plain(Box::new(Sha224::default())),
            Algorithm::Sha3Of224 => Digest::Plain(Box::new(Sha3_224::default())),
            Algorithm::Sha3Of256 => Digest::Plain(Box::new(Sha3_256::default())),
            Algorithm::Sha3Of384 => Digest::Plain(Box::new(Sha3_384::default())),
            Algorithm::Sha3Of512 => Digest::Plain(Box::new(Sha3_512::default())),
            Algorithm::Blake2b => Digest::Plain(Box::new(Blake2b512::default())),
            Algorithm::Blake2s => Digest::Plain(Box::new(Blake2s256::default())),
        }
    }
}

/// A digest in progress.
pub(super) enum Digest {
    /// Implemented in assembly; these are the algorithms of nearly all records.
    Fast(Box<fast::Context>),
    Plain(Box<dyn DynDigest + Send>),
}

impl Digest {
    /// Adds bytes to the digest.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Digest::Fast(digest) => digest.update(bytes),
            Digest::Plain(digest) => digest.update(bytes),
        }
    }

    /// Returns the digest in lower-case hexadecimal.
    pub(super) fn finish(self) -> String {
        match self {
            Digest::Fast(digest) => hexadecimal(digest.finish().as_ref()),
            Digest::Plain(digest) => hexadecimal(&digest.finalize()),
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The hash that an image must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) algorithm: Algorithm,
    /// The algorithm's name in the record.
    pub(crate) name: String,
    /// In hexadecimal.
    pub(crate) expected: String,
}

impl Check {
    /// Returns the best check that a record offers: its hash, otherwise its MD5 checksum.
    pub(crate) fn of(record: &ImageRecord) -> Option<Self> {
        let hash = record.os_hash_algo.as_ref().zip(record.os_hash_value.as_ref());
        let hash = hash.and_then(|(name, value)| {
            Some(Check { algorithm: Algorithm::named(name)?, name: name.clone(), expected: value.clone() })
        });
        let checksum = record.checksum.as_ref();
        hash.or_else(|| {
            checksum.map(|checksum| Check {
                algorithm: Algorithm::Md5,
                name: "md5".to_owned(),
                expected: checksum.clone(),
            })
        })
    }
}

impl Check {
    /// Returns the best check of a record whose value can be a digest of its algorithm. A value that is
    /// damaged would make every image look broken.
    pub(crate) fn credible(record: &ImageRecord) -> Option<Self> {
        let is_credible = |check: &Check| {
            let is_hexadecimal = check.expected.bytes().all(|byte| byte.is_ascii_hexdigit());
            is_hexadecimal && check.expected.len() == check.algorithm.start().finish().len()
        };
        let of_checksum = ImageRecord { checksum: record.checksum.clone(), ..ImageRecord::default() };
        let found = Check::of(record).filter(is_credible);
        found.or_else(|| Check::of(&of_checksum).filter(is_credible))
    }
}

/// Returns a digest of everything in a record that may cause a failure.
///
/// It is written to the queue, and as a digest it reveals no location.
pub(crate) fn fingerprint(record: &ImageRecord) -> String {
    let mut digest = Algorithm::Sha256.start();
    digest.update(format!("{record:?}").as_bytes());
    digest.finish()[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_hashlib() {
        for (name, value) in [
            ("md5", "900150983cd24fb0d6963f7d28e17f72"),
            ("SHA1", "a9993e364706816aba3e25717850c26c9cd0d89d"),
            ("sha224", "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7"),
            ("SHA2-256", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                "sha384",
                "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed\
                 8086072ba1e7cc2358baeca134c825a7",
            ),
            (
                "sha512",
                "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                 2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
            ),
            ("sha512_256", "53048e2681941ef99b2e29b76b4c7dabe4c2d0c634fc6d46e0e2f13107e7af23"),
            ("sha3_224", "e642824c3f8cf24ad09234ee7d3c766fc9a3a5168d0c94ad73b46fdf"),
            ("sha3-256", "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532"),
            (
                "sha3_384",
                "ec01498288516fc926459f58e2c6ad8df9b473cb0fc08c2596da7cf0e49be4b2\
                 98d88cea927ac7f539f1edf228376d25",
            ),
            (
                "sha3_512",
                "b751850b1a57168a5693cd924b6b096e08f621827444f70d884f5d0240d2712e\
                 10e116e9192af3c91a7ec57647e3934057340b4cf408d5a56592f8274eec53f0",
            ),
            (
                "blake2b",
                "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1\
                 7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923",
            ),
            ("blake2s", "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982"),
        ] {
            let mut digest = Algorithm::named(name).unwrap().start();
            digest.update(b"a");
            digest.update(b"bc");
            assert_eq!(digest.finish(), value, "{name}");
        }
        for name in ["", "sm3", "md5-sha1", "shake_256", "sha3"] {
            assert_eq!(Algorithm::named(name), None, "{name}");
        }
    }

    #[test]
    fn a_value_that_is_no_digest_is_no_check() {
        let text = |text: &str| Some(text.to_owned());
        let md5 = "900150983CD24FB0D6963F7D28E17F72";
        for (value, checksum, expected) in [
            (text(&"a".repeat(128)), text(md5), Some("sha512")),
            (text(&"A".repeat(128)), None, Some("sha512")),
            (text(&"a".repeat(127)), text(md5), Some("md5")),
            (text(&"x".repeat(128)), text(md5), Some("md5")),
            (text("aa"), text("none"), None),
            (None, text(md5), Some("md5")),
            (None, None, None),
        ] {
            let record = ImageRecord {
                os_hash_algo: text("sha512"),
                os_hash_value: value.clone(),
                checksum,
                ..ImageRecord::default()
            };
            let found = Check::credible(&record);
            assert_eq!(found.as_ref().map(|check| check.name.as_str()), expected, "{value:?}");
        }
    }

    #[test]
    fn the_hash_comes_before_the_checksum() {
        let text = |text: &str| Some(text.to_owned());
        for (algo, value, checksum, expected) in [
            (text("sha512"), text("aa"), text("bb"), Some(("sha512", "aa"))),
            (text("sha512"), None, text("bb"), Some(("md5", "bb"))),
            (text("whirlpool"), text("aa"), text("bb"), Some(("md5", "bb"))),
            (text("whirlpool"), text("aa"), None, None),
            (None, None, None, None),
        ] {
            let record =
                ImageRecord { os_hash_algo: algo, os_hash_value: value, checksum, ..ImageRecord::default() };
            let check = Check::of(&record);
            let found = check.as_ref().map(|check| (check.name.as_str(), check.expected.as_str()));
            assert_eq!(found, expected);
        }
    }
}
