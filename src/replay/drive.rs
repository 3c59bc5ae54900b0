//! Puts a plan through the door of a node: opens the stocks, takes line after line, reads every stock back.
//!
//! The lines of one product go one after the other in the order of the plan; different products go at the same time, in a bounded
//! number of lanes. It must not know where the node runs or where the plan came from, nor what the stocks should hold in the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use indicatif::ProgressBar;
use tokio::task::JoinSet;

use crate::client::{Client, Outcome, Patience, ReserveRequest, Stock, StockSettings, persist};

use super::invoices::{Cancellation, Product, Returned, SaleLine, Step};
use super::report::{Answers, Failure};

/// The reason of every adjustment that is made here.
const ADJUSTMENT_REASON: &str = "cancellation";

/// What came of it. Without failures every step of every product was done, and `stocks` holds every product, by sku.
#[derive(Debug, Default)]
pub(crate) struct Driven {
    /// What the node said.
    pub(crate) answers: Answers,
    /// What it should not have said, by product and line.
    pub(crate) failures: Vec<Failure>,
    /// Whether the stocks were read at the end: not where one could not be opened, or where patience ran out.
    pub(crate) read: bool,
    /// Every stock after the last line; those that could not be read are failures instead.
    pub(crate) stocks: Vec<Stock>,
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
    products.sort_by_key(|product| std::cmp::Reverse(product.steps.len()));
    let steps = products.iter().map(|product| product.steps.len() + 2).sum::<usize>();
    bar.set_length(steps as u64);
    let shop = Arc::new(Shop { client, patience, products, gave_up: AtomicBool::new(false), bar });
    let started_at = Instant::now();
    let mut driven = shop.pass(Pass::Open, lanes).await;
    if driven.failures.is_empty() {
        driven.merge(shop.pass(Pass::Trade, lanes).await);
        driven.answers.seconds = started_at.elapsed().as_secs_f64();
        if !shop.gave_up.load(Ordering::Relaxed) {
            driven.merge(shop.pass(Pass::Read, lanes).await);
            driven.read = true;
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
        self.answers.returns += other.answers.returns;
        self.answers.returns_repeated += other.answers.returns_repeated;
        self.answers.adjustments += other.answers.adjustments;
        self.answers.adjustments_repeated += other.answers.adjustments_repeated;
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
    Trade,
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
            Pass::Trade => "selling and returning",
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
                Pass::Trade => self.trade(product, &mut driven).await,
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
        let settings = StockSettings { quantity: product.bought, per_user_limit: None, hold_seconds: None };
        match self.ask(driven, || self.client.put_stock(sku, &settings)).await {
            Ok(_) => driven.answers.stocks += 1,
            Err(said) => driven.fail(None, sku, format!("a stock of {} units could not be opened: {said}", product.bought)),
        }
        self.bar.inc(1);
    }

    async fn trade(&self, product: &Product, driven: &mut Driven) {
        let mut trade = Trade { shop: self, sku: product.sku.as_str(), sequence_before: 0, sold: BTreeMap::new() };
        for step in &product.steps {
            let (line, done) = match step {
                Step::Sale(sale) => (sale.line, trade.sell(sale, driven).await),
                Step::Cancellation(one) => (one.line, trade.take_back(one, driven).await),
            };
            if let Err(detail) = done {
                driven.fail(Some(line), product.sku.as_str(), detail);
            }
            self.bar.inc(1);
            if self.gave_up.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    async fn read(&self, product: &Product, driven: &mut Driven) {
        let sku = product.sku.as_str();
        match self.ask(driven, || self.client.get_stock(sku)).await {
            Ok((_, stock)) if stock.sku == sku => driven.stocks.push(stock),
            Ok((_, stock)) => driven.fail(None, sku, format!("its stock was asked for; shown was {}", stock.sku)),
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

/// One product on its way through its lines. Every key is derived from nothing but the file, so that a second run of the same file
/// asks the same questions. A repeated answer shows its subject as it stands now, which may be several steps on.
struct Trade<'a> {
    shop: &'a Shop,
    sku: &'a str,
    /// The place of the last grant.
    sequence_before: u64,
    /// The reservation of each line that was sold.
    sold: BTreeMap<u64, Sold>,
}

struct Sold {
    id: String,
    units: u32,
    /// What came back of it until now.
    returned: u32,
}

impl Trade<'_> {
    /// Reserves and confirms one line.
    async fn sell(&mut self, line: &SaleLine, driven: &mut Driven) -> Result<(), String> {
        let (shop, sku, units) = (self.shop, self.sku, line.quantity.units());
        let key = format!("line-{}", line.line);
        let request = ReserveRequest { user: line.user.as_str(), quantity: units, reference: Some(line.invoice.as_str()) };
        let (replayed, granted) = shop
            .ask(driven, || shop.client.reserve(sku, request, Some(&key)))
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
        // With a key of its own, so that it is answered with yes even when all of it has come back since.
        let key = format!("line-{}-confirm", line.line);
        let (_, paid) = shop
            .ask(driven, || shop.client.confirm(&granted.id, Some(&key)))
            .await
            .map_err(|said| format!("reservation {} was granted and not confirmed: {said}", granted.id))?;
        if (paid.id.as_str(), u64::from(paid.confirmed) + u64::from(paid.returned)) != (granted.id.as_str(), u64::from(units)) {
            return Err(format!(
                "reservation {} was confirmed and has {} of {units} units sold and {} returned",
                granted.id, paid.confirmed, paid.returned
            ));
        }
        driven.answers.confirms += 1;
        self.sold.insert(line.line, Sold { id: granted.id, units, returned: 0 });
        let before = std::mem::replace(&mut self.sequence_before, granted.sequence);
        if granted.sequence <= before {
            return Err(format!("its grant has the place {}, the grant of the line before it {before}", granted.sequence));
        }
        Ok(())
    }

    /// Takes back what earlier lines bought, the newest first, and adjusts the stock by the rest.
    async fn take_back(&mut self, one: &Cancellation, driven: &mut Driven) -> Result<(), String> {
        for returned in &one.returned {
            self.return_units(one.line, *returned, driven).await?;
        }
        if one.adjusted == 0 {
            return Ok(());
        }
        let (shop, sku, units) = (self.shop, self.sku, one.adjusted);
        let key = format!("line-{}-adjust", one.line);
        let (replayed, stock) = shop
            .ask(driven, || shop.client.adjust(sku, i64::from(units), ADJUSTMENT_REASON, &key))
            .await
            .map_err(|said| format!("the stock was not adjusted by {units} units: {said}"))?;
        if stock.sku != sku {
            return Err(format!("the stock was to be adjusted by {units} units; adjusted was {}", stock.sku));
        }
        driven.answers.adjustments += 1;
        driven.answers.adjustments_repeated += u64::from(replayed);
        Ok(())
    }

    async fn return_units(
        &mut self,
        line: u64,
        Returned { line: from, units }: Returned,
        driven: &mut Driven,
    ) -> Result<(), String> {
        let shop = self.shop;
        let Some(sold) = self.sold.get_mut(&from) else {
            return Err(format!("{units} units were not returned: line {from}, which bought them, was not sold"));
        };
        let key = format!("line-{line}-return-{from}");
        let (replayed, shown) = shop
            .ask(driven, || shop.client.return_units(&sold.id, units, &key))
            .await
            .map_err(|said| format!("{units} units of line {from} were not returned: {said}"))?;
        sold.returned += units;
        let as_counted = if replayed { shown.returned >= sold.returned } else { shown.returned == sold.returned };
        if shown.id != sold.id || !as_counted || u64::from(shown.confirmed) + u64::from(shown.returned) != u64::from(sold.units) {
            return Err(format!(
                "{units} units of line {from} were returned, {} of its {} by now; reservation {} shows {} sold and {} returned",
                sold.returned, sold.units, shown.id, shown.confirmed, shown.returned
            ));
        }
        driven.answers.returns += 1;
        driven.answers.returns_repeated += u64::from(replayed);
        Ok(())
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

    use super::super::export::{Export, ReadingOptions};
    use super::super::invoices::Plan;
    use super::*;
    use crate::client::ClientOptions;

    /// A stand-in for a node that keeps stocks and reservations in lists, and misbehaves for products of certain names.
    #[derive(Default)]
    struct StandIn {
        /// What each stock was opened with and adjusted by.
        allotted: BTreeMap<String, i64>,
        grants: Vec<Grant>,
        /// Every call as it came, and of each the first answer's subject.
        calls: Vec<String>,
        keys: BTreeMap<String, usize>,
    }

    struct Grant {
        sku: String,
        key: String,
        user: String,
        quantity: u64,
        paid: bool,
        returned: u64,
    }

    impl StandIn {
        fn answer(&mut self, method: &str, path: &str, key: &str, body: &Value) -> (u16, bool, Value) {
            self.calls.push(format!("{method} {path} {key}"));
            let seen_before = self.calls.iter().filter(|call| *call == self.calls.last().unwrap()).count() > 1;
            let problem = |status: u16, code: &str| (status, false, json!({"status": status, "code": code, "detail": "because"}));
            let mut place = path.strip_prefix("/v1/").unwrap().split('/');
            let (kind, name, verb) = (place.next().unwrap(), place.next().unwrap(), place.next().unwrap_or_default());
            let sku = if kind == "stocks" { name.to_owned() } else { self.grants[name.parse::<usize>().unwrap()].sku.clone() };
            // Done, and yet the caller does not get to know it at the first attempt.
            let shy = sku == "SHY" && method == "POST" && !seen_before;
            let known = (!key.is_empty()).then(|| self.keys.get(&format!("{sku} {key}")).copied()).flatten();
            let replayed = known.is_some();
            let answer = match (method, verb) {
                ("PUT", _) if sku == "TAKEN" => return problem(409, "stock_exists"),
                ("PUT", _) => {
                    self.allotted.entry(sku.clone()).or_insert_with(|| body["quantity"].as_i64().unwrap());
                    (201, replayed, self.stock(&sku))
                }
                ("GET", _) => (200, replayed, self.stock(&sku)),
                ("POST", "reservations") if sku == "EMPTY" => return problem(409, "sold_out"),
                ("POST", "reservations") if sku == "BUSY" => return problem(503, "overloaded"),
                ("POST", "reservations") => {
                    let number = known.unwrap_or_else(|| {
                        let (user, quantity) = (body["user"].as_str().unwrap().to_owned(), body["quantity"].as_u64().unwrap());
                        let (sku, key) = (sku.clone(), key.to_owned());
                        self.grants.push(Grant { sku, key, user, quantity, paid: false, returned: 0 });
                        self.grants.len() - 1
                    });
                    self.keys.insert(format!("{sku} {key}"), number);
                    (201, replayed, self.reservation(number))
                }
                ("POST", "confirm") => {
                    let number: usize = name.parse().unwrap();
                    self.grants[number].paid = true;
                    self.keys.insert(format!("{sku} {key}"), number);
                    (200, replayed, self.reservation(number))
                }
                ("POST", "return") if sku == "STINGY" => return problem(409, "reservation_not_confirmed"),
                ("POST", "return") => {
                    let number: usize = name.parse().unwrap();
                    if !replayed {
                        self.grants[number].returned += body["quantity"].as_u64().unwrap();
                    }
                    self.keys.insert(format!("{sku} {key}"), number);
                    (200, replayed, self.reservation(number))
                }
                ("POST", "adjustments") if body["reason"] != "cancellation" => return problem(400, "invalid_request"),
                ("POST", "adjustments") => {
                    if !replayed {
                        *self.allotted.get_mut(&sku).unwrap() += body["delta"].as_i64().unwrap();
                    }
                    self.keys.insert(format!("{sku} {key}"), 0);
                    (200, replayed, self.stock(&sku))
                }
                _ => return problem(404, "not_found"),
            };
            if shy { problem(503, "outcome_unknown") } else { answer }
        }

        fn stock(&self, sku: &str) -> Value {
            let paid = self.grants.iter().filter(|grant| grant.sku == sku && grant.paid);
            let sold = paid.map(|grant| grant.quantity - grant.returned).sum::<u64>();
            let allotted = self.allotted[sku];
            let shown = if sku == "OTHER" { "ANOTHER" } else { sku };
            json!({"sku": shown, "allotted": allotted, "available": allotted - sold.cast_signed(), "reserved": 0, "sold": sold})
        }

        fn reservation(&self, number: usize) -> Value {
            let Grant { sku, user, quantity, paid, returned, .. } = &self.grants[number];
            let sequence = if sku == "UNORDERED" { 1 } else { number + 1 };
            let user = if sku == "CONFUSED" { "somebody" } else { user };
            let sold = if !paid {
                0
            } else if sku == "HALF" {
                quantity / 2
            } else {
                *quantity - returned
            };
            let returned = if sku == "FORGETS" { 0 } else { *returned };
            json!({"id": number.to_string(), "sku": sku, "user": user, "quantity": quantity, "sequence": sequence,
                "reserved": if *paid { 0 } else { *quantity }, "confirmed": sold, "released": 0, "returned": returned,
                "state": if *paid { "confirmed" } else { "reserved" }, "reserved_at": "2026-01-01T00:00:00.000Z",
                "expires_at": "2026-01-01T00:10:00.000Z", "resolved_at": null})
        }

        /// Bodies are not kept: what a call did is seen in what is left.
        fn changes(&self, sku: &str) -> Vec<&str> {
            let numbers: Vec<String> = self
                .grants
                .iter()
                .zip(0..)
                .filter(|(grant, _)| grant.sku == sku)
                .map(|(_, number)| format!("/{number}/"))
                .collect();
            let concerns = |call: &&str| call.contains(&format!("/{sku}/")) || numbers.iter().any(|number| call.contains(number));
            self.calls.iter().map(String::as_str).filter(concerns).filter_map(|call| call.strip_prefix("POST /v1/")).collect()
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
            let (status, replayed, answer) = node.lock().answer(method, path, &header("idempotency-key: "), &body);
            let answer = answer.to_string();
            let length = answer.len();
            let text =
                format!("HTTP/1.1 {status} -\r\ncontent-length: {length}\r\nidempotency-replayed: {replayed}\r\n\r\n{answer}");
            stream.get_mut().write_all(text.as_bytes()).await.unwrap();
        }
    }

    /// Drives `rows` of invoice, product, quantity and customer through `node`; returns what came of it and what the node is then.
    async fn driven_on(node: StandIn, rows: &[&str], lanes: usize) -> (Driven, StandIn) {
        let text = format!("InvoiceNo,StockCode,Quantity,CustomerID\n{}", rows.join("\n"));
        let export = Export::open(text.as_bytes(), &ReadingOptions::default()).unwrap();
        let products = Plan::read(&export, "").unwrap().products;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let client = Client::new(listener.local_addr().unwrap(), ClientOptions::default());
        let node = Arc::new(Mutex::new(node));
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

    async fn driven(rows: &[&str], lanes: usize) -> (Driven, StandIn) {
        driven_on(StandIn::default(), rows, lanes).await
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
        let sold: Vec<_> = driven.stocks.iter().map(|stock| (stock.sku.as_str(), stock.allotted, stock.sold)).collect();
        assert_eq!((sold, driven.read), (vec![("A", 6, 6), ("Z", 1, 1)], true));
    }

    const RETURNING: [&str; 5] = ["1,A,5,9", "2,A,3,9", "C3,A,-4,9", "4,A,2,9", "C5,A,-9,9"];

    #[tokio::test]
    async fn cancellations_return_from_the_newest_line_on_and_adjust_by_the_rest() {
        let (driven, node) = driven(&RETURNING, 8).await;
        assert_eq!(failures(&driven), [""; 0]);
        assert_eq!(
            node.changes("A"),
            [
                "stocks/A/reservations line-2",
                "reservations/0/confirm line-2-confirm",
                "stocks/A/reservations line-3",
                "reservations/1/confirm line-3-confirm",
                "reservations/1/return line-4-return-3",
                "reservations/0/return line-4-return-2",
                "stocks/A/reservations line-5",
                "reservations/2/confirm line-5-confirm",
                "reservations/2/return line-6-return-5",
                "reservations/0/return line-6-return-2",
                "stocks/A/adjustments line-6-adjust",
            ]
        );
        let returned: Vec<u64> = node.grants.iter().map(|grant| grant.returned).collect();
        assert_eq!((returned, node.allotted["A"]), (vec![5, 3, 2], 10 + 3));
        let Answers { returns, returns_repeated, adjustments, adjustments_repeated, .. } = driven.answers;
        assert_eq!((returns, returns_repeated, adjustments, adjustments_repeated), (4, 0, 1, 0));
    }

    #[tokio::test]
    async fn a_repeat_asks_the_same_and_changes_nothing() {
        let (_, first) = driven(&RETURNING, 8).await;
        let before = first.calls.len();
        let (repeated, node) = driven_on(first, &RETURNING, 8).await;
        assert_eq!(failures(&repeated), [""; 0]);
        assert_eq!(node.calls[..before], node.calls[before..]);
        let returned: Vec<u64> = node.grants.iter().map(|grant| grant.returned).collect();
        assert_eq!((returned, node.allotted["A"]), (vec![5, 3, 2], 13));
        let Answers { grants_repeated, returns_repeated, adjustments_repeated, .. } = repeated.answers;
        assert_eq!((grants_repeated, returns_repeated, adjustments_repeated), (3, 4, 1));
    }

    #[tokio::test]
    async fn an_unknown_outcome_is_asked_again_with_the_same_key() {
        let (driven, node) = driven(&["7,SHY,2,1", "7,SHY,1,1", "C8,SHY,-4,1"], 8).await;
        assert_eq!(failures(&driven), [""; 0]);
        let Answers { grants, confirms, returns, adjustments, asked_again, .. } = driven.answers;
        assert_eq!((grants, confirms, returns, adjustments, asked_again), (2, 2, 2, 1, 7));
        let first = node.calls.iter().filter(|call| *call == "POST /v1/stocks/SHY/reservations line-2").count();
        assert_eq!((first, node.grants.len(), node.allotted["SHY"]), (2, 2, 4));
        assert_eq!(node.grants.iter().map(|grant| grant.returned).collect::<Vec<_>>(), [2, 1]);
    }

    #[tokio::test]
    async fn a_rejection_is_a_failure_of_its_line_and_stops_nothing_else() {
        let (driven, _) = driven(&["7,EMPTY,2,1", "7,A,1,1", "8,EMPTY,1,1", "C9,EMPTY,-1,1"], 1).await;
        assert_eq!(
            failures(&driven),
            [
                "line 2, product EMPTY: 2 units for 1 were not granted: 409 sold_out: because",
                "line 4, product EMPTY: 1 units for 1 were not granted: 409 sold_out: because",
                "line 5, product EMPTY: 1 units were not returned: line 4, which bought them, was not sold",
            ]
        );
        assert_eq!((driven.answers.grants, driven.answers.returns, driven.stocks.len()), (1, 0, 2));
    }

    #[tokio::test]
    async fn a_return_that_is_rejected_is_a_failure_of_its_cancellation() {
        let (driven, _) = driven(&["7,STINGY,2,1", "C8,STINGY,-1,1", "9,STINGY,1,1"], 1).await;
        assert_eq!(
            failures(&driven),
            ["line 3, product STINGY: 1 units of line 2 were not returned: 409 reservation_not_confirmed: because"]
        );
        assert_eq!((driven.answers.confirms, driven.answers.returns, driven.read), (2, 0, true));
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
        assert!(node.grants.is_empty() && driven.stocks.is_empty() && !driven.read);
        assert_eq!(driven.answers.asked_again, 2);
    }

    #[tokio::test]
    async fn a_stock_that_cannot_be_opened_as_needed_ends_the_run_before_the_first_sale() {
        let (driven, node) = driven(&["7,TAKEN,2,1", "7,A,1,1"], 2).await;
        assert_eq!(failures(&driven), ["product TAKEN: a stock of 2 units could not be opened: 409 stock_exists: because"]);
        assert_eq!((node.grants.len(), driven.answers.stocks, driven.read), (0, 1, false));
    }

    #[tokio::test]
    async fn answers_that_do_not_fit_the_question_are_failures() {
        for (rows, says) in [
            (
                &["7,CONFUSED,2,1"][..],
                "line 2, product CONFUSED: 2 units for 1 were asked for; granted were 2 of CONFUSED for somebody",
            ),
            (
                &["7,UNORDERED,2,1", "8,UNORDERED,2,1"],
                "line 3, product UNORDERED: its grant has the place 1, the grant of the line before it 1",
            ),
            (&["7,HALF,2,1"], "line 2, product HALF: reservation 0 was confirmed and has 1 of 2 units sold and 0 returned"),
            (
                &["7,FORGETS,2,1", "C8,FORGETS,-1,1"],
                "line 3, product FORGETS: 1 units of line 2 were returned, 1 of its 2 by now; reservation 0 shows 1 sold and 0 returned",
            ),
            (&["7,OTHER,2,1"], "product OTHER: its stock was asked for; shown was ANOTHER"),
        ] {
            let (driven, _) = driven(rows, 1).await;
            assert_eq!(failures(&driven), [says]);
        }
    }
}
