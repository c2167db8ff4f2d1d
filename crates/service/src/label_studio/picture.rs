//! Pictures that are in their address.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The bytes of a `data:` address; nothing if it is another.
pub(crate) fn of_data_uri(address: &str) -> Option<Result<Vec<u8>, String>> {
    let rest = address.strip_prefix("data:")?;
    let encoded = rest.split_once(";base64,").map(|(_, encoded)| encoded);
    let decoded = encoded
        .ok_or("a data: address that is not base64")
        .map(|it| STANDARD.decode(it.trim()));
    Some(match decoded {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(format!("a data: address that is no base64: {error}")),
        Err(reason) => Err(reason.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_data_are_decoded() {
        assert_eq!(
            of_data_uri("data:image/png;base64,AAEC"),
            Some(Ok(vec![0, 1, 2]))
        );
        assert!(of_data_uri("data:image/png;base64,*").unwrap().is_err());
        assert!(of_data_uri("data:text/plain,hello").unwrap().is_err());
        assert_eq!(of_data_uri("/data/upload/1/a.png"), None);
    }
}
