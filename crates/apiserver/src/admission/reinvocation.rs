//! Which mutations run a second time: when a hook or policy changes the object, those before it that asked for it see the
//! change (`apiserver/pkg/admission/reinvocation.go`, `…/plugin/{webhook,policy}/mutating/reinvocationcontext.go`).

use api::AnyObject;
use std::collections::{BTreeMap, BTreeSet};

/// The state of one request.
#[derive(Debug, Default)]
pub struct Reinvocation {
    second_round: bool,
    needed: bool,
    plugins: BTreeMap<&'static str, OfPlugin>,
}

#[derive(Debug, Default)]
struct OfPlugin {
    /// What it left behind.
    last: Option<Vec<u8>>,
    /// Ran and want to run again after a change.
    ran: BTreeSet<String>,
    /// Are to run in the second round.
    again: BTreeSet<String>,
}

impl OfPlugin {
    fn require(&mut self) {
        self.again.append(&mut self.ran);
    }
}

impl Reinvocation {
    /// A plugin begins. If others changed the object since, all of its own that want to are run again.
    pub(super) fn begin(&mut self, plugin: &'static str, object: Option<&dyn AnyObject>) {
        let second_round = self.second_round;
        let state = self.plugins.entry(plugin).or_default();
        if second_round && state.last != object.map(AnyObject::encode) {
            state.require();
        }
    }

    /// Whether this hook or policy may run: always in the first round, in the second only if needed.
    pub(super) fn may_run(&self, plugin: &'static str, id: &str) -> bool {
        !self.second_round || self.plugins.get(plugin).is_some_and(|state| state.again.contains(id))
    }

    /// The object was changed.
    pub(super) fn changed(&mut self, plugin: &'static str) {
        self.plugins.entry(plugin).or_default().require();
        self.needed = true;
    }

    /// One that wants to run again ran.
    pub(super) fn ran(&mut self, plugin: &'static str, id: &str) {
        self.plugins.entry(plugin).or_default().ran.insert(id.to_owned());
    }

    /// A plugin is done.
    pub(super) fn end(&mut self, plugin: &'static str, object: Option<&dyn AnyObject>) {
        self.plugins.entry(plugin).or_default().last = object.map(AnyObject::encode);
    }

    /// 0 or 1.
    pub(super) fn round(&self) -> u8 {
        u8::from(self.second_round)
    }

    /// Whether there is a second round; begins it.
    pub(super) fn next_round(&mut self) -> bool {
        let again = self.needed && !self.second_round;
        self.second_round = true;
        again
    }
}
