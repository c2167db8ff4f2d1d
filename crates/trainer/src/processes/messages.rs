//! What processes tell each other, and the bytes that it travels as.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Something that processes tell each other.
pub(crate) trait Message {
    /// What arrives of it.
    type Received;

    fn encode(&self) -> Vec<u8>;

    fn decode(bytes: &[u8]) -> Self::Received;
}

/// What the leader has all do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Command {
    Step,
    Evaluate,
    End,
}

impl Message for Command {
    type Received = Self;

    fn encode(&self) -> Vec<u8> {
        vec![*self as u8]
    }

    fn decode(bytes: &[u8]) -> Self {
        match bytes.first() {
            Some(&byte) if byte == Self::Step as u8 => Self::Step,
            Some(&byte) if byte == Self::Evaluate as u8 => Self::Evaluate,
            _ => Self::End,
        }
    }
}

/// A process has its device and its data.
pub(crate) struct Ready;

impl Message for Ready {
    type Received = Self;

    fn encode(&self) -> Vec<u8> {
        b"ready".to_vec()
    }

    fn decode(_bytes: &[u8]) -> Self {
        Self
    }
}

/// Numbers by their bits, so that all of them arrive, whether finite or not.
impl Message for Vec<u64> {
    type Received = Self;

    fn encode(&self) -> Vec<u8> {
        self.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn decode(bytes: &[u8]) -> Self {
        let words = bytes.as_chunks().0.iter();
        words.map(|word| u64::from_le_bytes(*word)).collect()
    }
}

/// Bytes that have a form of their own, such as weights.
impl Message for Vec<u8> {
    type Received = Self;

    fn encode(&self) -> Vec<u8> {
        self.clone()
    }

    fn decode(bytes: &[u8]) -> Self {
        bytes.to_vec()
    }
}

/// Anything that has a form in JSON.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: Serialize + DeserializeOwned> Message for Json<T> {
    type Received = Result<T, serde_json::Error>;

    fn encode(&self) -> Vec<u8> {
        // What has none arrives as nothing, and is refused there.
        serde_json::to_vec(&self.0).unwrap_or_default()
    }

    fn decode(bytes: &[u8]) -> Self::Received {
        serde_json::from_slice(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_arrives() {
        for command in [Command::Step, Command::Evaluate, Command::End] {
            assert_eq!(Command::decode(&command.encode()), command);
        }
        let words = vec![f64::NAN.to_bits(), 0, u64::MAX];
        assert_eq!(Vec::<u64>::decode(&words.encode()), words);
        let texts = vec!["a".to_owned(), String::new()];
        let received = Json::<Vec<String>>::decode(&Json(texts.clone()).encode());
        assert_eq!(received.unwrap(), texts);
        assert!(Json::<Vec<String>>::decode(b"").is_err());
    }
}
