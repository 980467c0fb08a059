//! How much a lease may say: one cluster stores what another wrote.
//!
//! Invariant: whoever writes a status keeps to this first, since a server refuses the whole write.

use super::{EndedGroup, LeaseRefusal, MAX_REFERENCE, Withdrawal};

/// Most characters of a reason: one word.
pub const MAX_REASON: usize = 64;
/// Most characters of a message: one sentence.
pub const MAX_MESSAGE: usize = 1024;
/// Most characters of a container's name.
pub const MAX_CONTAINER: usize = 64;
/// Most conditions of a group of ended indexes.
pub const MAX_CONDITIONS: usize = 16;
/// Most characters of the type of one of them.
pub const MAX_CONDITION: usize = 316;
/// Most groups of ended indexes: twice what a lease has indexes, since each ends once.
pub const MAX_GROUPS: usize = 512;

/// The first `most` characters of `text`: servers count characters, not bytes.
#[must_use]
pub fn shortened(mut text: String, most: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(most) {
        text.truncate(end);
    }
    text
}

impl Withdrawal {
    /// As both clusters can store it, whoever wrote it.
    #[must_use]
    pub fn bounded(self) -> Self {
        Self { reason: shortened(self.reason, MAX_REASON), ..self }
    }
}

impl LeaseRefusal {
    /// As both clusters can store it: a message may quote whole templates.
    #[must_use]
    pub fn bounded(self) -> Self {
        Self {
            reason: shortened(self.reason, MAX_REASON),
            message: shortened(self.message, MAX_MESSAGE),
        }
    }
}

/// Whether a program's word for where it saved can be passed on: it ends up in variables of pods.
#[must_use]
pub fn is_reference(text: &str) -> bool {
    let plain = |character: char| !character.is_control() && !character.is_whitespace();
    !text.is_empty() && text.chars().count() <= MAX_REFERENCE && text.chars().all(plain)
}

impl EndedGroup {
    /// As both clusters can store it: conditions and names come from pods, messages from anywhere.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        self.conditions.retain(|condition| condition.chars().count() <= MAX_CONDITION);
        self.conditions.truncate(MAX_CONDITIONS);
        Self {
            reason: shortened(self.reason, MAX_REASON),
            checkpoint: self.checkpoint.filter(|saved| is_reference(&saved.reference)),
            lost_seconds: self.lost_seconds.max(0),
            container: self.container.map(|name| shortened(name, MAX_CONTAINER)),
            message: self.message.map(|message| shortened(message, MAX_MESSAGE)),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_to_be_stored_is_cut_between_characters() {
        assert_eq!(shortened("äöü".into(), 2), "äö");
        assert_eq!(shortened("äöü".into(), 3), "äöü");
        let group = EndedGroup {
            reason: "ä".repeat(100),
            container: Some("c".repeat(100)),
            conditions: [vec!["x".repeat(400)], vec!["Y".into(); 20]].concat(),
            message: Some("ß".repeat(5000)),
            ..EndedGroup::default()
        }
        .bounded();
        assert_eq!(group.reason.chars().count(), MAX_REASON);
        assert_eq!(group.container.unwrap().len(), MAX_CONTAINER);
        assert_eq!(group.conditions, vec!["Y"; MAX_CONDITIONS]);
        assert_eq!(group.message.unwrap().chars().count(), MAX_MESSAGE);
    }
}
