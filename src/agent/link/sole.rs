//! Whether somebody else works with this member's tokens: a thief, or a clone of this cluster.
//!
//! Nobody but us writes our heartbeat. So each one is written onto the version that the last one
//! made, and meeting another version time after time means that another agent beats too.

use crate::api::conditions::Claim;

/// Type of the condition that says that no other agent uses our tokens.
const TOKENS_PRIVATE: &str = "TokensPrivate";
/// Foreign writes, less the undisturbed beats since, that are no accident of an administrator.
const CERTAIN: u32 = 3;

/// What the heartbeats have met.
#[derive(Debug, Default)]
pub(super) struct Sole {
    version: Option<String>,
    met: u32,
    shared: bool,
}

impl Sole {
    /// The version that is there if nobody else wrote.
    pub(super) fn expected(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// A beat met nothing foreign.
    pub(super) fn was_alone(&mut self, version: Option<String>) {
        // The first one, and the one after a failure, expected nothing.
        if self.version.is_some() {
            self.met = self.met.saturating_sub(1);
        }
        self.shared &= self.met > 0;
        self.wrote(version);
    }

    /// A beat met what somebody else wrote.
    pub(super) fn met(&mut self) {
        self.met = (self.met + 1).min(2 * CERTAIN);
        self.shared |= self.met >= CERTAIN;
        self.version = None;
    }

    /// We wrote `version`.
    pub(super) fn wrote(&mut self, version: Option<String>) {
        self.version = version;
    }

    /// Whether our last write arrived is not known.
    pub(super) fn lost(&mut self) {
        self.version = None;
    }

    /// What the owner of `member` reads.
    pub(super) fn claim(&self, member: &str) -> Claim<'static> {
        let (status, reason, message) = match self.shared {
            false => ("True", "OneAgent", String::new()),
            true => (
                "False",
                "UsedElsewhere",
                format!(
                    "another agent works with this member's tokens: they were stolen, or this cluster \
                     was cloned. Stop the clone; then the hub's operator runs kubectl idlewild invite \
                     {member} --again and accepts, which ends the tokens everywhere"
                ),
            ),
        };
        Claim { type_: TOKENS_PRIVATE, status, reason, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(sole: &Sole) -> &'static str {
        sole.claim("north").reason
    }

    fn version(number: u32) -> String {
        number.to_string()
    }

    #[test]
    fn one_foreign_write_is_an_accident_and_three_are_another_agent() {
        let mut sole = Sole::default();
        sole.was_alone(Some(version(1)));
        for (round, want) in [(0, "OneAgent"), (1, "OneAgent"), (2, "UsedElsewhere")] {
            sole.met();
            assert_eq!(sole.expected(), None);
            sole.wrote(Some(version(10 + round)));
            assert_eq!(reason(&sole), want, "{round}");
        }
        assert!(sole.claim("north").message.contains("invite north --again"));
        for _ in 0..2 {
            sole.was_alone(Some(version(20)));
            assert_eq!(reason(&sole), "UsedElsewhere");
        }
        sole.was_alone(Some(version(21)));
        assert_eq!(reason(&sole), "OneAgent", "it is over");
    }

    #[test]
    fn a_write_whose_answer_was_lost_is_not_taken_for_a_strangers() {
        let mut sole = Sole::default();
        for number in 0..10 {
            sole.was_alone(Some(version(number)));
            sole.lost();
            assert_eq!(sole.expected(), None);
        }
        assert_eq!(reason(&sole), "OneAgent");
    }
}
