//! The headers that every message carries.

use crate::error::PublishError;
use crate::event::Event;
use crate::excerpt::Excerpt;

const EVENT_TYPE: &str = "event_type";
const AGGREGATE_TYPE: &str = "aggregate_type";
const AGGREGATE_ID: &str = "aggregate_id";
const CONTENT_TYPE: &str = "content-type";

/// Names that say what the relay knows: an event's own header of such a name, in any case, is left out, even
/// where the relay has nothing to say under that name.
const RESERVED: [&str; 4] = [EVENT_TYPE, AGGREGATE_TYPE, AGGREGATE_ID, CONTENT_TYPE];

/// The headers of a message of `event`, in the order in which they are sent: `event_type`, `aggregate_type` and
/// `aggregate_id` if the event has them, `content-type`, those of `attributes` (CloudEvents in binary mode), then the
/// event's own in their order, but for those that `is_taken` says an event can't have.
///
/// # Errors
///
/// [`PublishError::invalid`] if a name is not a token as RFC 7230 has it (which NATS demands, and HTTP's tools
/// expect), or a value holds a control character: with a line break in it, a value could pose as further
/// headers. Values are not shown, for headers may carry credentials.
pub(super) fn headers(
    event: &Event,
    content_type: &str,
    attributes: Vec<(String, String)>,
    is_taken: impl Fn(&str) -> bool,
) -> Result<Vec<(String, String)>, PublishError> {
    let columns = [
        (EVENT_TYPE, Some(event.event_type.as_str())),
        (AGGREGATE_TYPE, event.aggregate_type.as_deref()),
        (AGGREGATE_ID, event.aggregate_id.as_deref()),
        (CONTENT_TYPE, Some(content_type)),
    ];
    let mut headers = Vec::with_capacity(columns.len() + attributes.len() + event.headers.len());
    for (name, value) in columns {
        if let Some(value) = value {
            check_value(name, value)?;
            headers.push((name.to_owned(), value.to_owned()));
        }
    }
    headers.extend(attributes);
    for (name, value) in &event.headers {
        let mut reserved = RESERVED.iter();
        if reserved.any(|reserved| name.eq_ignore_ascii_case(reserved)) || is_taken(name) {
            continue;
        }
        check_name(name)?;
        check_value(name, value)?;
        headers.push((name.clone(), value.clone()));
    }
    Ok(headers)
}

fn check_name(name: &str) -> Result<(), PublishError> {
    if name.is_empty() {
        return Err(PublishError::invalid(
            "the event has a header without a name",
        ));
    }
    match name.chars().find(|character| !is_token(*character)) {
        None => Ok(()),
        Some(character) => Err(PublishError::invalid(format!(
            "the event's header {} has {character:?} in its name; letters, digits and any of !#$%&'*+-.^_`|~ are allowed",
            Excerpt(name)
        ))),
    }
}

fn check_value(name: &str, value: &str) -> Result<(), PublishError> {
    match value.chars().find(|character| character.is_control()) {
        None => Ok(()),
        Some(character) => Err(PublishError::invalid(format!(
            "the value of header {} has the control character {character:?}, which headers can't carry",
            Excerpt(name)
        ))),
    }
}

/// `tchar` of RFC 7230, section 3.2.6.
fn is_token(character: char) -> bool {
    character.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(character)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Meaning;
    use crate::fixture;

    fn with(name: &str, value: &str) -> Event {
        Event {
            headers: vec![(name.to_owned(), value.to_owned())],
            ..fixture::event()
        }
    }

    fn plain(event: &Event, content_type: &str) -> Result<Vec<(String, String)>, PublishError> {
        headers(event, content_type, Vec::new(), |_| false)
    }

    fn names(event: &Event) -> Vec<String> {
        let headers = plain(event, "text/plain").expect("headers");
        headers.into_iter().map(|(name, _)| name).collect()
    }

    fn refusal(event: &Event) -> String {
        let error = plain(event, "text/plain").expect_err("refused");
        assert_eq!(error.meaning(), Meaning::Invalid);
        error.to_string()
    }

    #[test]
    fn columns_come_first_and_in_order() {
        let headers = plain(&fixture::event(), "application/json").expect("headers");
        let shown: Vec<String> = headers.iter().map(|(k, v)| format!("{k}: {v}")).collect();
        assert_eq!(
            shown,
            [
                "event_type: PickMade",
                "aggregate_type: Draft",
                "aggregate_id: draft-1",
                "content-type: application/json",
                "traceparent: 00-ab-cd-01",
            ]
        );
    }

    #[test]
    fn what_an_event_lacks_is_left_out() {
        let mut event = fixture::event();
        event.aggregate_type = None;
        event.aggregate_id = None;
        event.headers.clear();
        assert_eq!(names(&event), ["event_type", "content-type"]);
    }

    #[test]
    fn an_event_can_not_pose_as_the_relay() {
        for reserved in [
            "Content-Type",
            "EVENT_TYPE",
            "aggregate_type",
            "Aggregate_Id",
        ] {
            let mut event = with(reserved, "forged\r\n");
            event.aggregate_type = None;
            event.aggregate_id = None;
            assert_eq!(names(&event), ["event_type", "content-type"], "{reserved}");
        }
    }

    #[test]
    fn attributes_come_before_the_events_own_and_displace_them() {
        let mut event = fixture::event();
        event.headers.push(("x".to_owned(), "forged".to_owned()));
        let attributes = vec![("x".to_owned(), "true".to_owned())];
        let headers = headers(&event, "text/plain", attributes, |name| name == "x");
        let last: Vec<_> = headers.expect("headers").split_off(4);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            last,
            [pair("x", "true"), pair("traceparent", "00-ab-cd-01")]
        );
    }

    #[test]
    fn every_legal_name_and_value_passes() {
        let event = with("!#$%&'*+-.^_`|~azAZ09", "any \"text\": é, =; even empty");
        assert_eq!(names(&event).len(), 5);
        assert_eq!(names(&with("tenant", "")).len(), 5);
    }

    #[test]
    fn names_that_headers_can_not_have() {
        assert_eq!(
            refusal(&with("", "x")),
            "the event has a header without a name"
        );
        assert_eq!(
            refusal(&with("a: b", "x")),
            "the event's header \"a: b\" has ':' in its name; letters, digits and any of !#$%&'*+-.^_`|~ are allowed"
        );
        for name in ["a b", "a\r\nb", "a\0", "é", "a(b)", "\u{7f}"] {
            refusal(&with(name, "x"));
        }
    }

    #[test]
    fn values_that_headers_can_not_carry() {
        for value in [
            "secret\r\nNats-Msg-Id: 1",
            "secret\n",
            "\0secret",
            "secret\u{7f}",
            "a\tsecret",
        ] {
            let refusal = refusal(&with("tenant", value));
            assert!(refusal.starts_with("the value of header \"tenant\" has"));
            assert!(!refusal.contains("secret"), "{refusal}");
        }
        let mut event = fixture::event();
        event.aggregate_id = Some("a\nb".to_owned());
        assert_eq!(
            refusal(&event),
            "the value of header \"aggregate_id\" has the control character '\\n', which headers can't carry"
        );
    }
}
