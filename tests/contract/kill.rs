//! A kill in the middle: who never heard an answer asks again with the same key and is told what is so.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::support::{Response, request_with};

use super::node::{Node, number, stock_counts, text, wait_until};

/// Callers at once, and calls of each.
const CALLERS: usize = 8;
const CALLS: usize = 400;

/// Answers after which the node is killed.
const ANSWERS: usize = 150;

/// What one caller asks for: every third call takes a unit away from the stock, the others reserve one.
fn ask(address: std::net::SocketAddr, caller: usize, call: usize) -> std::io::Result<Response> {
    let key = format!("key-{caller}-{call}");
    let (path, body) = if call.is_multiple_of(3) {
        ("adjustments", r#"{"delta":-1,"reason":"lost"}"#.to_owned())
    } else {
        ("reservations", format!(r#"{{"user":"user-{caller}-{call}"}}"#))
    };
    request_with(address, "POST", &format!("/v1/stocks/rush/{path}"), &[("idempotency-key", &key)], &body)
}

#[test]
fn who_never_heard_an_answer_asks_again_and_is_told_what_is_so() {
    let mut node = Node::start(&[]);
    node.call("PUT", "/v1/stocks/rush", &[], r#"{"quantity":10000}"#).done(201);
    let (address, answered) = (node.server().address, AtomicUsize::new(0));
    // Of each caller the answers up to the first that never came.
    let heard: Vec<Vec<Response>> = thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let answered = &answered;
                scope.spawn(move || {
                    let answers = (0..CALLS).map_while(|call| ask(address, caller, call).ok());
                    answers
                        .inspect(|_| {
                            answered.fetch_add(1, Ordering::SeqCst);
                        })
                        .collect()
                })
            })
            .collect();
        wait_until("answers", || answered.load(Ordering::SeqCst) >= ANSWERS);
        node.kill();
        callers.into_iter().map(|caller| caller.join().expect("no caller panics")).collect()
    });
    assert!(heard.iter().any(|answers| answers.len() < CALLS), "no call was under way");

    node.resume(false);
    let address = node.server().address;
    let (mut lost, mut reserved, mut unheard) = (0, 0, 0);
    for (caller, answers) in heard.iter().enumerate() {
        // Those that were heard, and the one that was not.
        for call in 0..CALLS.min(answers.len() + 1) {
            let again = ask(address, caller, call).expect("the node answers");
            let status = if call.is_multiple_of(3) { 200 } else { 201 };
            assert_eq!(again.status, status, "{again:?}");
            match answers.get(call) {
                Some(first) => {
                    assert_eq!((first.status, first.header("idempotency-replayed")), (status, None), "{first:?}");
                    assert_eq!(again.header("idempotency-replayed"), Some("true"), "{again:?}");
                    if status == 201 {
                        assert_eq!(again.json(), first.json());
                    }
                }
                None => unheard += 1,
            }
            // Whether it had happened or not, it has now, and once.
            let third = ask(address, caller, call).expect("the node answers");
            assert_eq!((third.status, third.header("idempotency-replayed")), (status, Some("true")), "{third:?}");
            if status == 201 {
                assert_eq!(third.json(), again.json());
                reserved += 1;
            } else {
                lost += 1;
            }
        }
    }
    assert!(unheard > 0, "every call was answered");
    assert_eq!(stock_counts(&node.stock("rush")), [10_000 - lost, 10_000 - lost - reserved, reserved, 0]);
    // One grant for each, in one order without a gap.
    let granted = node.list("/v1/stocks/rush/reservations?limit=1000", "reservations", None);
    let sequences = granted.iter().map(|one| number(one, "sequence"));
    assert!(sequences.eq((1..=reserved).rev()), "{granted:?}");
    let mut users: Vec<String> = granted.iter().map(|one| text(one, "user")).collect();
    users.sort();
    users.dedup();
    assert_eq!(users.len() as u64, reserved, "somebody was granted twice");
    node.finish();
}
