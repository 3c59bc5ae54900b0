//! Puts a plan through the door of a node: opens the stocks, sells line after line, reads every stock back.
//!
//! The lines of one product go one after the other in the order of the file; different products go at the same time, in a bounded
//! number of lanes. It must not know where the node runs or where the plan came from.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use indicatif::ProgressBar;
use tokio::task::JoinSet;

use crate::client::{Client, Outcome, Patience, ReservationState, ReserveRequest, StockSettings, persist};

use super::invoices::{Product, SaleLine};
use super::report::{Answers, Failure, FinalStock};

/// What came of it. Without failures every line was granted and confirmed, and `stocks` holds every product, by sku.
#[derive(Debug, Default)]
pub(crate) struct Driven {
    /// What the node said.
    pub(crate) answers: Answers,
    /// What it should not have said, by product and line.
    pub(crate) failures: Vec<Failure>,
    /// Every stock after the last line; those that could not be read are failures instead.
    pub(crate) stocks: Vec<FinalStock>,
}

/// Drives all `products` through `client` in at most `lanes` lanes; calls that are refused or whose outcome is unknown are made again
/// within `patience`. When a stock cannot be opened as the file needs it, nothing is sold; when patience runs out once, the
/// other lanes end after the line that they are at.
pub(crate) async fn drive(
    client: Client,
    patience: Patience,
    mut products: Vec<Product>,
    lanes: usize,
    bar: ProgressBar,
) -> Driven {
    // The longest products first: they decide how long it takes.
    products.sort_by_key(|product| std::cmp::Reverse(product.lines.len()));
    let steps = products.iter().map(|product| product.lines.len() + 2).sum::<usize>();
    bar.set_length(steps as u64);
    let shop = Arc::new(Shop { client, patience, products, gave_up: AtomicBool::new(false), bar });
    let started_at = Instant::now();
    let mut driven = shop.pass(Pass::Open, lanes).await;
    if driven.failures.is_empty() {
        driven.merge(shop.pass(Pass::Sell, lanes).await);
        driven.answers.seconds = started_at.elapsed().as_secs_f64();
        if !shop.gave_up.load(Ordering::Relaxed) {
            driven.merge(shop.pass(Pass::Read, lanes).await);
        }
    }
    shop.bar.finish_and_clear();
    driven.failures.sort_by(|left, right| (left.line, &left.sku).cmp(&(right.line, &right.sku)));
    driven.stocks.sort_by(|left, right| left.sku.cmp(&right.sku));
    driven
}

impl Driven {
    fn merge(&mut self, other: Self) {
        self.answers.stocks += other.answers.stocks;
        self.answers.grants += other.answers.grants;
        self.answers.grants_repeated += other.answers.grants_repeated;
        self.answers.confirms += other.answers.confirms;
        self.answers.asked_again += other.answers.asked_again;
        self.failures.extend(other.failures);
        self.stocks.extend(other.stocks);
    }

    fn fail(&mut self, line: Option<u64>, sku: &str, detail: String) {
        self.failures.push(Failure { line, sku: sku.to_owned(), detail });
    }
}

/// What a lane does with each product it takes.
#[derive(Debug, Clone, Copy)]
enum Pass {
    Open,
    Sell,
    Read,
}

struct Shop {
    client: Client,
    patience: Patience,
    products: Vec<Product>,
    gave_up: AtomicBool,
    bar: ProgressBar,
}

impl Shop {
    /// One pass over all products.
    async fn pass(self: &Arc<Self>, pass: Pass, lanes: usize) -> Driven {
        self.bar.set_message(match pass {
            Pass::Open => "opening the stocks",
            Pass::Sell => "selling",
            Pass::Read => "reading the stocks",
        });
        let next = Arc::new(AtomicUsize::new(0));
        let mut running = JoinSet::new();
        for _ in 0..lanes.min(self.products.len()) {
            running.spawn(Arc::clone(self).lane(pass, Arc::clone(&next)));
        }
        running.join_all().await.into_iter().fold(Driven::default(), |mut all, lane| {
            all.merge(lane);
            all
        })
    }

    async fn lane(self: Arc<Self>, pass: Pass, next: Arc<AtomicUsize>) -> Driven {
        let mut driven = Driven::default();
        while let Some(product) = self.products.get(next.fetch_add(1, Ordering::Relaxed)) {
            match pass {
                Pass::Open => self.open(product, &mut driven).await,
                Pass::Sell => self.sell(product, &mut driven).await,
                Pass::Read => self.read(product, &mut driven).await,
            }
            if self.gave_up.load(Ordering::Relaxed) {
                break;
            }
        }
        driven
    }

    async fn open(&self, product: &Product, driven: &mut Driven) {
        let sku = product.sku.as_str();
        let settings = StockSettings { quantity: product.units, per_user_limit: None, hold_seconds: None };
        match self.ask(driven, || self.client.put_stock(sku, &settings)).await {
            Ok(_) => driven.answers.stocks += 1,
            Err(said) => driven.fail(None, sku, format!("a stock of {} units could not be opened: {said}", product.units)),
        }
        self.bar.inc(1);
    }

    async fn sell(&self, product: &Product, driven: &mut Driven) {
        let mut sequence_before = 0;
        for line in &product.lines {
            match self.sell_line(product.sku.as_str(), line, driven).await {
                Ok(sequence) if sequence > sequence_before => sequence_before = sequence,
                Ok(sequence) => driven.fail(
                    Some(line.line),
                    product.sku.as_str(),
                    format!("its grant has the place {sequence}, the grant of the line before it {sequence_before}"),
                ),
                Err(detail) => driven.fail(Some(line.line), product.sku.as_str(), detail),
            }
            self.bar.inc(1);
            if self.gave_up.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    /// Reserves and confirms one line; returns the place of its grant among those of the product.
    async fn sell_line(&self, sku: &str, line: &SaleLine, driven: &mut Driven) -> Result<u64, String> {
        let units = line.quantity.units();
        // Derived from nothing but the file, so that a second run of the same file asks the same questions.
        let key = format!("line-{}", line.line);
        let request = ReserveRequest { user: line.user.as_str(), quantity: units, reference: Some(line.invoice.as_str()) };
        let (replayed, granted) = self
            .ask(driven, || self.client.reserve(sku, request, Some(&key)))
            .await
            .map_err(|said| format!("{units} units for {} were not granted: {said}", line.user))?;
        if (granted.sku.as_str(), granted.user.as_str(), granted.quantity) != (sku, line.user.as_str(), units) {
            return Err(format!(
                "{units} units for {} were asked for; granted were {} of {} for {}",
                line.user, granted.quantity, granted.sku, granted.user
            ));
        }
        driven.answers.grants += 1;
        driven.answers.grants_repeated += u64::from(replayed);
        // A confirm of the whole needs no key: it is answered the same however often it is made.
        let (_, paid) = self
            .ask(driven, || self.client.confirm(&granted.id, None))
            .await
            .map_err(|said| format!("reservation {} was granted and not confirmed: {said}", granted.id))?;
        if (paid.state, paid.confirmed) != (ReservationState::Confirmed, units) {
            return Err(format!("reservation {} was confirmed and has {} of {units} units sold", granted.id, paid.confirmed));
        }
        driven.answers.confirms += 1;
        Ok(granted.sequence)
    }

    async fn read(&self, product: &Product, driven: &mut Driven) {
        let sku = product.sku.as_str();
        match self.ask(driven, || self.client.get_stock(sku)).await {
            Ok((_, stock)) => {
                let last = FinalStock {
                    sku: stock.sku,
                    bought: product.units,
                    allotted: stock.allotted,
                    available: stock.available,
                    reserved: stock.reserved,
                    sold: stock.sold,
                };
                if last.sku != sku || !last.as_bought() {
                    driven.fail(
                        None,
                        sku,
                        format!(
                            "the file buys {} units; its stock {} has {} allotted, {} available, {} reserved, {} sold",
                            last.bought, last.sku, last.allotted, last.available, last.reserved, last.sold
                        ),
                    );
                }
                driven.stocks.push(last);
            }
            Err(said) => driven.fail(None, sku, format!("its stock could not be read: {said}")),
        }
        self.bar.inc(1);
    }

    /// Asks until the answer is yes or no. Yes comes with whether it repeats an earlier answer.
    async fn ask<T: std::fmt::Debug, F>(&self, driven: &mut Driven, call: impl FnMut() -> F) -> Result<(bool, T), String>
    where
        F: Future<Output = Outcome<T>>,
    {
        let persisted = persist(self.patience, call).await;
        let without_answer = u64::from(persisted.unknown + persisted.refused);
        match persisted.outcome {
            Outcome::Accepted { replayed, body, .. } => {
                driven.answers.asked_again += without_answer;
                Ok((replayed, body))
            }
            Outcome::Problem { status, code, detail } => {
                driven.answers.asked_again += without_answer;
                Err(format!("{status} {code}: {detail}"))
            }
            Outcome::Unknown(_) | Outcome::Refused(_) => {
                // The last attempt was not made again.
                driven.answers.asked_again += without_answer.saturating_sub(1);
                self.gave_up.store(true, Ordering::Relaxed);
                Err(format!("no answer after {without_answer} attempts, the last one: {:?}", persisted.outcome))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use parking_lot::Mutex;
    use serde_json::{Value, json};
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::invoices::Plan;
    use super::*;
    use crate::client::ClientOptions;

    /// A stand-in for a node that keeps stocks in a map, and misbehaves for products of certain names.
    #[derive(Default)]
    struct StandIn {
        allotted: BTreeMap<String, u64>,
        grants: Vec<Grant>,
        calls: Vec<String>,
    }

    struct Grant {
        sku: String,
        key: String,
        user: String,
        quantity: u64,
        paid: bool,
    }

    impl StandIn {
        fn answer(&mut self, method: &str, path: &str, key: &str, body: &Value) -> (u16, Value) {
            self.calls.push(format!("{method} {path} {key}"));
            let seen_before = self.calls.iter().filter(|call| *call == self.calls.last().unwrap()).count() > 1;
            let problem = |status: u16, code: &str| (status, json!({"status": status, "code": code, "detail": "because"}));
            let mut place = path.strip_prefix("/v1/").unwrap().split('/');
            let (kind, name) = (place.next().unwrap(), place.next().unwrap());
            match (method, kind) {
                ("PUT", _) if name == "TAKEN" => problem(409, "stock_exists"),
                ("PUT", _) => {
                    self.allotted.insert(name.to_owned(), body["quantity"].as_u64().unwrap());
                    (201, self.stock(name))
                }
                ("GET", _) => (200, self.stock(name)),
                ("POST", "stocks") if name == "EMPTY" => problem(409, "sold_out"),
                ("POST", "stocks") if name == "BUSY" => problem(503, "overloaded"),
                ("POST", "stocks") => {
                    let known = self.grants.iter().position(|grant| grant.sku == name && grant.key == key);
                    let number = known.unwrap_or_else(|| {
                        let (user, quantity) = (body["user"].as_str().unwrap().to_owned(), body["quantity"].as_u64().unwrap());
                        self.grants.push(Grant { sku: name.to_owned(), key: key.to_owned(), user, quantity, paid: false });
                        self.grants.len() - 1
                    });
                    // Granted, and yet the caller does not get to know it at the first attempt.
                    if name == "SHY" && !seen_before { problem(503, "outcome_unknown") } else { (201, self.reservation(number)) }
                }
                ("POST", _) => {
                    let number: usize = name.parse().unwrap();
                    self.grants[number].paid = true;
                    (200, self.reservation(number))
                }
                _ => problem(404, "not_found"),
            }
        }

        fn stock(&self, sku: &str) -> Value {
            let paid = self.grants.iter().filter(|grant| grant.sku == sku && grant.paid).map(|grant| grant.quantity).sum::<u64>();
            let sold = if sku == "FORGETS" { paid.saturating_sub(1) } else { paid };
            let allotted = self.allotted[sku];
            json!({"sku": sku, "allotted": allotted, "available": allotted - sold, "reserved": 0, "sold": sold})
        }

        fn reservation(&self, number: usize) -> Value {
            let Grant { sku, user, quantity, paid, .. } = &self.grants[number];
            let sequence = if sku == "UNORDERED" { 1 } else { number + 1 };
            let user = if sku == "CONFUSED" { "somebody" } else { user };
            let sold = if !paid {
                0
            } else if sku == "HALF" {
                quantity / 2
            } else {
                *quantity
            };
            json!({"id": number.to_string(), "sku": sku, "user": user, "quantity": quantity, "sequence": sequence,
                "reserved": if *paid { 0 } else { *quantity }, "confirmed": sold, "released": 0,
                "state": if *paid { "confirmed" } else { "reserved" }, "reserved_at": "2026-01-01T00:00:00.000Z",
                "expires_at": "2026-01-01T00:10:00.000Z", "resolved_at": null})
        }
    }

    async fn serve(stream: TcpStream, node: Arc<Mutex<StandIn>>) {
        let mut stream = BufReader::new(stream);
        loop {
            let (mut head, mut line) = (Vec::new(), String::new());
            while stream.read_line(&mut line).await.unwrap_or(0) > 2 {
                head.push(std::mem::take(&mut line).trim_end().to_owned());
            }
            let Some(request) = head.first() else { return };
            let header = |name: &str| head.iter().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
            let mut body = vec![0; header("content-length: ").parse().unwrap_or(0)];
            stream.read_exact(&mut body).await.unwrap();
            let mut words = request.split(' ');
            let (method, path) = (words.next().unwrap(), words.next().unwrap());
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let (status, answer) = node.lock().answer(method, path, &header("idempotency-key: "), &body);
            let answer = answer.to_string();
            let text = format!("HTTP/1.1 {status} -\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
            stream.get_mut().write_all(text.as_bytes()).await.unwrap();
        }
    }

    /// Drives `rows` of invoice, product, quantity and customer through a stand-in; returns what came of it and what was called.
    async fn driven(rows: &[&str], lanes: usize) -> (Driven, StandIn) {
        let text = format!("InvoiceNo,StockCode,Quantity,CustomerID\n{}", rows.join("\n"));
        let products = Plan::read(text.as_bytes()).unwrap().products;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let client = Client::new(listener.local_addr().unwrap(), ClientOptions::default());
        let node = Arc::new(Mutex::new(StandIn::default()));
        let behind = Arc::clone(&node);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                drop(tokio::spawn(serve(stream, Arc::clone(&behind))));
            }
        });
        let patience = Patience { pause_min: Duration::from_millis(1), pause_max: Duration::from_millis(1), attempts_max: 3 };
        let driven = drive(client, patience, products, lanes, ProgressBar::hidden()).await;
        server.abort();
        (driven, std::mem::take(&mut *node.lock()))
    }

    fn failures(driven: &Driven) -> Vec<String> {
        driven.failures.iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn every_line_is_granted_and_paid_in_the_order_of_its_product() {
        let (driven, node) = driven(&["7,A,2,1", "7,Z,1,1", "8,A,3,2", "9,A,1,"], 8).await;
        assert_eq!(failures(&driven), [""; 0]);
        let Answers { stocks, grants, grants_repeated, confirms, asked_again, .. } = driven.answers;
        assert_eq!((stocks, grants, grants_repeated, confirms, asked_again), (2, 4, 0, 4, 0));
        let of_a = node.grants.iter().filter(|grant| grant.sku == "A");
        let of_a: Vec<_> = of_a.map(|grant| (grant.key.as_str(), grant.user.as_str(), grant.quantity, grant.paid)).collect();
        assert_eq!(of_a, [("line-2", "1", 2, true), ("line-4", "2", 3, true), ("line-5", "guest:9", 1, true)]);
        let sold: Vec<_> = driven.stocks.iter().map(|stock| (stock.sku.as_str(), stock.bought, stock.sold)).collect();
        assert_eq!(sold, [("A", 6, 6), ("Z", 1, 1)]);
    }

    #[tokio::test]
    async fn an_unknown_outcome_is_asked_again_with_the_same_key() {
        let (driven, node) = driven(&["7,SHY,2,1", "7,SHY,1,1"], 8).await;
        assert_eq!(failures(&driven), [""; 0]);
        assert_eq!((driven.answers.grants, driven.answers.confirms, driven.answers.asked_again), (2, 2, 2));
        let first = node.calls.iter().filter(|call| *call == "POST /v1/stocks/SHY/reservations line-2").count();
        assert_eq!((first, node.grants.len()), (2, 2));
    }

    #[tokio::test]
    async fn a_rejection_is_a_failure_of_its_line_and_stops_nothing_else() {
        let (driven, _) = driven(&["7,EMPTY,2,1", "7,A,1,1", "8,EMPTY,1,1"], 1).await;
        let failures = failures(&driven);
        assert_eq!(failures[1], "line 2, product EMPTY: 2 units for 1 were not granted: 409 sold_out: because");
        assert!(failures[2].starts_with("line 4, product EMPTY: "), "{failures:?}");
        // And its stock is not sold as the file says.
        assert!(
            failures[0].starts_with("product EMPTY: the file buys 3 units; its stock EMPTY has 3 allotted, 3 available"),
            "{failures:?}"
        );
        assert_eq!((failures.len(), driven.answers.grants, driven.stocks.len()), (3, 1, 2));
    }

    #[tokio::test]
    async fn a_node_that_never_admits_ends_the_run_with_the_line_named() {
        let (driven, node) = driven(&["7,BUSY,2,1", "7,BUSY,2,1", "7,A,1,1"], 1).await;
        let failures = failures(&driven);
        assert_eq!(failures.len(), 1);
        assert!(
            failures[0].starts_with("line 2, product BUSY: 2 units for 1 were not granted: no answer after 3 attempts"),
            "{failures:?}"
        );
        assert!(node.grants.is_empty() && driven.stocks.is_empty());
        assert_eq!(driven.answers.asked_again, 2);
    }

    #[tokio::test]
    async fn a_stock_that_cannot_be_opened_as_needed_ends_the_run_before_the_first_sale() {
        let (driven, node) = driven(&["7,TAKEN,2,1", "7,A,1,1"], 2).await;
        assert_eq!(failures(&driven), ["product TAKEN: a stock of 2 units could not be opened: 409 stock_exists: because"]);
        assert_eq!((node.grants.len(), driven.answers.stocks), (0, 1));
    }

    #[tokio::test]
    async fn answers_that_do_not_fit_the_question_are_failures() {
        let (confused, _) = driven(&["7,CONFUSED,2,1"], 1).await;
        assert!(failures(&confused).iter().any(|text| text.contains("granted were 2 of CONFUSED for somebody")), "{confused:?}");
        let (unordered, _) = driven(&["7,UNORDERED,2,1", "8,UNORDERED,2,1"], 1).await;
        assert_eq!(
            failures(&unordered),
            ["line 3, product UNORDERED: its grant has the place 1, the grant of the line before it 1"]
        );
        let (half, _) = driven(&["7,HALF,2,1"], 1).await;
        assert_eq!(failures(&half), ["line 2, product HALF: reservation 0 was confirmed and has 1 of 2 units sold"]);
        let (forgets, _) = driven(&["7,FORGETS,2,1"], 1).await;
        assert_eq!(
            failures(&forgets),
            ["product FORGETS: the file buys 2 units; its stock FORGETS has 2 allotted, 1 available, 0 reserved, 1 sold"]
        );
    }
}
