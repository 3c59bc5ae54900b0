//! What a stranger to a stock is told without its shard: that it is sold out. In a rush nearly everybody is one.
//!
//! The answer must be one that the shard could give. So the committed view must say that nothing is left, and the stock must know neither the
//! user, who might be at their limit, nor the key, whose answer would be repeated. Three readings that are not one, so their order counts:
//!
//! 1. The filter of who is known is taken before the view is read, and must still be in use in the end: one that takes its place leaves out
//!    only whom no view shown by then counts.
//! 2. The view before the filter is asked: whom it counts was in the filter before it was shown.
//! 3. Whether the key is on its way before whether it is known: what was on its way until just now is known.

use std::sync::Arc;

use tidegate_stock::{Command, Known, Rejection, Request, Timestamp, sold_out_to_a_stranger};

use crate::known::KnownInUse;
use crate::published::Published;
use crate::under_way::{KeysUnderWay, UnderWay};

/// Of one shard, who is not known to be a stranger.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    known: Arc<KnownInUse>,
    under_way: Arc<KeysUnderWay>,
}

impl Strangers {
    /// Where the shard puts the filters of whom it knows.
    pub(crate) fn known(&self) -> &Arc<KnownInUse> {
        &self.known
    }

    /// `request` is about to be sent to the shard.
    pub(crate) fn enter(&self, request: &Request) -> Option<UnderWay> {
        self.under_way.enter(request)
    }

    /// That what `request` asks for is sold out, if its shard would say so too.
    pub(crate) fn sold_out(&self, published: &Published, request: &Request, now: Timestamp) -> Option<Rejection> {
        let Command::Reserve { sku, user, quantity, hold_seconds, .. } = &request.command else { return None };
        let look = || {
            published.look(sku, now, |view, available| {
                let rejection = sold_out_to_a_stranger(view, available, *quantity, *hold_seconds, now)?;
                Some((view.id, view.terms.per_user_limit.is_some(), rejection))
            })?
        };
        // While there are units, nobody need be looked up.
        look()?;
        let known = self.known.get()?;
        let (stock, is_limited, rejection) = look()?;
        if is_limited && known.may_know(Known::User(stock, user.as_str())) {
            return None;
        }
        if let Some(idempotency) = request.idempotency
            && (self.under_way.may_hold(idempotency) || known.may_know(Known::Key(stock, idempotency.key)))
        {
            return None;
        }
        self.known.is(&known).then_some(rejection)
    }
}
