//! Encrypted locations: what Glance's `metadata_encryption_key` makes of a URL.
//!
//! AES in CBC mode with the option's bytes as the key; URL-safe base64 of the initial vector and the blocks. The text ends
//! at its last NUL, random bytes fill the block. It is encrypted, not signed: what comes out with another key is noise, which
//! the caller has to tell from a URL. Glance encrypted some rows of a table and others not.

use aes::cipher::{Block, BlockCipherDecrypt, KeyInit};
use aes::{Aes128, Aes192, Aes256};
use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Checks that the option's value is a key, without repeating it.
pub(super) fn check_key(key: &str) -> Result<()> {
    ensure!([16, 24, 32].contains(&key.len()), "it has {} bytes, but a key has 16, 24 or 32", key.len());
    Ok(())
}

/// Decrypts a location; the result may be noise.
pub(super) fn open(key: &str, sealed: &str) -> Result<String> {
    let sealed = BASE64.decode(sealed.trim()).ok().context("it is no base64")?;
    let text = match key.len() {
        16 => cbc::<Aes128>(key, &sealed)?,
        24 => cbc::<Aes192>(key, &sealed)?,
        32 => cbc::<Aes256>(key, &sealed)?,
        _ => bail!("the key has a wrong length"),
    };
    let end = text.iter().rposition(|&byte| byte == 0).context("its end is missing")?;
    String::from_utf8(text[..end].to_vec()).ok().context("it is no text")
}

fn cbc<C: KeyInit + BlockCipherDecrypt>(key: &str, sealed: &[u8]) -> Result<Vec<u8>> {
    let size = size_of::<Block<C>>();
    ensure!(sealed.len() > size && sealed.len().is_multiple_of(size), "it has no whole blocks");
    let cipher = C::new_from_slice(key.as_bytes()).ok().context("the key has a wrong length")?;
    let blocks: Vec<&[u8]> = sealed.chunks(size).collect();
    let mut text = Vec::with_capacity(sealed.len() - size);
    for pair in blocks.windows(2) {
        let mut block = Block::<C>::try_from(pair[1]).ok().context("it has no whole blocks")?;
        cipher.decrypt_block(&mut block);
        text.extend(block.iter().zip(pair[0]).map(|(byte, before)| byte ^ before));
    }
    Ok(text)
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
