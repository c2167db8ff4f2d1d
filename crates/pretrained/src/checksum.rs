use std::fmt;

use sha2::{Digest, Sha256};

/// The SHA-256 that a file must have, or at least the first 8 of its digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksum(String);

impl Checksum {
    /// The checksum that these hexadecimal digits are, 8 to 64 of them; nothing if they are not.
    pub fn parse(digits: &str) -> Option<Self> {
        let is_hex = digits.bytes().all(|it| it.is_ascii_hexdigit());
        ((8..=64).contains(&digits.len()) && is_hex).then(|| Self(digits.to_ascii_lowercase()))
    }

    /// The SHA-256 of bytes, if it is another.
    pub(crate) fn differs(&self, bytes: &[u8]) -> Option<String> {
        let digest = Sha256::digest(bytes);
        let digits = digest.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        let found: String =
            (digits.filter_map(|digit| char::from_digit(digit.into(), 16))).collect();
        (!found.starts_with(&self.0)).then_some(found)
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        if self.0.len() < 64 {
            write!(f, "…")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_by_its_sha_256_or_the_beginning_of_it() {
        // FIPS 180-2, appendix B.1.
        const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        for digits in [ABC, &ABC[..8], &ABC.to_uppercase()] {
            assert_eq!(Checksum::parse(digits).unwrap().differs(b"abc"), None);
        }
        let other = Checksum::parse("ba7816be").unwrap();
        assert_eq!(other.differs(b"abc").as_deref(), Some(ABC));
        for wrong in ["", "ba7816b", "ba7816bg", &"0".repeat(65)] {
            assert_eq!(Checksum::parse(wrong), None, "{wrong}");
        }
    }
}
