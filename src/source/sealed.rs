//! Encrypted locations: decrypts what Glance's `metadata_encryption_key` makes of a URL.
//!
//! Glance uses AES in CBC mode with the option's bytes as the key, and stores URL-safe base64 of the initial
//! vector and the blocks. The text ends at its last NUL byte; random bytes fill the block. It is encrypted
//! but not signed: another key decrypts it to noise, which the caller has to tell from a URL. In one table,
//! Glance may have encrypted some rows and not others.

use aes::cipher::block_padding::NoPadding;
use aes::cipher::{BlockCipherDecrypt, BlockModeDecrypt as _, KeyInit, KeyIvInit as _};
use aes::{Aes128, Aes192, Aes256};
use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use cbc::Decryptor;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Size of the initial vector, and of each block of AES.
const BLOCK: usize = 16;

/// Checks that the option's value is a key, without repeating it.
pub(super) fn check_key(key: &str) -> Result<()> {
    ensure!([16, 24, 32].contains(&key.len()), "it has {} bytes, but a key has 16, 24 or 32", key.len());
    Ok(())
}

/// Decrypts a location; with a wrong key the result may be noise.
pub(super) fn open(key: &str, sealed: &str) -> Result<String> {
    let sealed = BASE64.decode(sealed.trim()).ok().context("it is not base64")?;
    let text = match key.len() {
        16 => decrypted::<Aes128>(key, &sealed)?,
        24 => decrypted::<Aes192>(key, &sealed)?,
        32 => decrypted::<Aes256>(key, &sealed)?,
        _ => bail!("the key has a wrong length"),
    };
    let end = text.iter().rposition(|&byte| byte == 0).context("its end is missing")?;
    String::from_utf8(text[..end].to_vec()).ok().context("it is not UTF-8")
}

fn decrypted<C: KeyInit + BlockCipherDecrypt>(key: &str, sealed: &[u8]) -> Result<Vec<u8>> {
    let (vector, blocks) = sealed.split_at_checked(BLOCK).context("it is too short")?;
    ensure!(!blocks.is_empty(), "it is too short");
    let cipher = Decryptor::<C>::new_from_slices(key.as_bytes(), vector);
    let text = cipher.ok().context("the key has a wrong length")?.decrypt_padded_vec::<NoPadding>(blocks);
    text.ok().context("it does not consist of whole blocks")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sealed by Glance 33's own `urlsafe_encrypt`, with a random part that is not.
    #[test]
    fn opens_what_glance_sealed() {
        for (key, url, sealed) in [
            ("kkkkkkkkkkkkkkkk", "file:///x", "AAECAwQFBgcICQoLDA0OD1jPEfsuC2AAss0cnAd4_TU="),
            (
                "0123456789abcdef01234567",
                "s3://AK:s3cret@h/b/k",
                "AAECAwQFBgcICQoLDA0OD3bhPHNCdON-krfoc72Rtz_X3RwGBuZcns4Zr9yoBEGA",
            ),
            (
                "0123456789abcdef0123456789abcd\u{e9}",
                "rbd://fsid/pool/image-\u{e9}/snap",
                "AAECAwQFBgcICQoLDA0OD6AMb0LBn5UM9e2T-Xgtrzf9OEylmS3_5eBqtNK5YSjT",
            ),
            (
                "kkkkkkkkkkkkkkkk",
                "exactly 16 bytes",
                "AAECAwQFBgcICQoLDA0OD82HK9HdT4FuogUFzyZFWbxom_HsLV8IEbFoLtQry-0M",
            ),
        ] {
            check_key(key).unwrap();
            assert_eq!(open(key, sealed).unwrap(), url);
            assert_ne!(open(&"x".repeat(key.len()), sealed).ok().as_deref(), Some(url));
        }
    }

    #[test]
    fn refuses_what_was_never_sealed() {
        let key = "kkkkkkkkkkkkkkkk";
        for sealed in
            ["", "!", "file", "AAECAwQFBgcICQoLDA0ODw==", "AAECAwQFBgcICQoLDA0OD1jPEfsuC2AAss0cnAd4_Q=="]
        {
            open(key, sealed).unwrap_err();
        }
        for key in ["", "short", "seventeen bytes !"] {
            check_key(key).unwrap_err();
        }
    }
}
