//! Defects that tests plant into the product, to see whether they are found. A build of the product
//! has none: the question whether one is planted is answered when it is compiled.

/// A way to be wrong, named after what it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Defect {
    /// I1, R15: guests are bound past the scheduler, by books that count nobody.
    BoundBlindly,
    /// I2: leases are accepted whatever others hold.
    AcceptedBlindly,
    /// I3: a gang's gate opens when its first pod is bound.
    GateOpensEarly,
    /// I4: what is on record is placed again.
    PlacedTwice,
    /// I4, R8: a silent member's work is run elsewhere at once.
    NoTolerance,
    /// I5: an attempt's number is used again.
    AttemptReused,
    /// I8: the agent does nothing for owner's pods.
    OwnerIgnored,
    /// I9: guests that are to stop without their hub go on.
    NeverStops,
    /// I9: pods have no deadline.
    NoDeadline,
    /// I10: pods are made before the hub confirms.
    UnconfirmedPods,
    /// I11, L3, R7: leases of a job that is gone stay.
    LeasesStay,
    /// I12: a job that is over goes on.
    EndForgotten,
    /// I16: pictures are written once and never again.
    StalePictures,
    /// I22: a failed step is repeated at once.
    NoPause,
    /// I23: a member's status is written although nothing changed.
    WritesAlways,
    /// L4: what a lost member held waits for ever.
    LostForEver,
    /// R9, R11: a watch that breaks counts as a list without anything.
    BrokenIsGone,
    /// R12: guests are taken off the API server without waiting for their end.
    ForcedDelete,
    /// R13: guests end because their hub is silent.
    SilenceKills,
    /// R14: leases have names that nobody can make again.
    RandomNames,
    /// R18: a result is folded again by whoever sees it again.
    FoldedTwice,
}

#[cfg(not(test))]
/// Whether `defect` is planted.
pub(crate) const fn planted(_defect: Defect) -> bool {
    false
}

/// What nobody can say again; only a defect asks.
#[cfg(not(test))]
pub(crate) const fn any() -> u64 {
    0
}

#[cfg(test)]
pub(crate) use of_tests::{any, plant, planted};

#[cfg(test)]
mod of_tests {
    use std::cell::Cell;

    use super::Defect;

    thread_local! {
        static PLANTED: Cell<Option<Defect>> = const { Cell::new(None) };
    }

    /// Whether `defect` is planted on this thread.
    pub(crate) fn planted(defect: Defect) -> bool {
        PLANTED.get() == Some(defect)
    }

    /// Another number each time.
    pub(crate) fn any() -> u64 {
        thread_local! {
            static ASKED: Cell<u64> = const { Cell::new(0) };
        }
        ASKED.set(ASKED.get() + 1);
        ASKED.get()
    }

    /// Plants a defect on this thread, or takes it out.
    pub(crate) fn plant(defect: Option<Defect>) {
        PLANTED.set(defect);
    }
}
