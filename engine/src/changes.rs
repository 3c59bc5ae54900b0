//! How those who wait for commits hear of them: of several as of one, and of the last without fail.

use crate::sync::{Ordering, fence, watch};

/// Tells of commits. Anybody may listen; mostly nobody does, and then telling costs a fence and a load.
#[derive(Debug)]
pub(crate) struct Changes {
    sender: watch::Sender<()>,
}

impl Default for Changes {
    fn default() -> Self {
        Self { sender: watch::Sender::new(()) }
    }
}

impl Changes {
    /// Hears of whatever is told from now on. What is not told any more, whoever looks after this call sees for himself.
    pub(crate) fn listen(&self) -> watch::Receiver<()> {
        let receiver = self.sender.subscribe();
        // Counting the receiver orders nothing. Together with the fence below: either the teller counts this one, or this one finds the
        // watermark that the teller had seen.
        fence(Ordering::SeqCst);
        receiver
    }

    /// Tells that there is something new, after it was seen to be there.
    pub(crate) fn tell(&self) {
        fence(Ordering::SeqCst);
        if self.sender.receiver_count() > 0 {
            self.sender.send_replace(());
        }
    }
}
