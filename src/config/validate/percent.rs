//! Percent-encoding, as URLs have it.

/// Undoes it, or says what is wrong with the text without showing it: it may be a password.
pub(super) fn decoded(text: &str) -> Result<String, &'static str> {
    const STRAY: &str = "has a `%` that no two hexadecimal digits follow: write %25 for a `%`";
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let value = digit().zip(digit()).map(|(high, low)| high * 16 + low);
        let value = value.and_then(|value| u8::try_from(value).ok());
        bytes.push(value.ok_or(STRAY)?);
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 once it is percent-decoded")
}
