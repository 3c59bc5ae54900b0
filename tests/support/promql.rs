//! Takes expressions of `PromQL` apart, as far as dashboards and rules here use the language. What it does not know it refuses.

/// What an expression asks for.
#[derive(Debug, Default)]
pub struct Query {
    pub selectors: Vec<Selector>,
    /// Labels of `by`, `without`, `on` and `ignoring`, and the selectors (by place) that they are about.
    pub groupings: Vec<(String, std::ops::Range<usize>)>,
}

/// Series that an expression asks for.
#[derive(Debug)]
pub struct Selector {
    pub metric: String,
    pub matchers: Vec<Matcher>,
    /// The functions and aggregations around it, from the inside out.
    pub functions: Vec<String>,
    /// Whether it asks for a range of time.
    pub is_range: bool,
}

#[derive(Debug)]
pub struct Matcher {
    pub label: String,
    pub value: String,
}

const AGGREGATIONS: &[&str] = &["sum", "max", "min", "avg", "count"];
/// Functions with their arguments: `r` a range, `v` a vector, `s` a number.
const FUNCTIONS: &[(&str, &str)] = &[
    ("rate", "r"),
    ("increase", "r"),
    ("changes", "r"),
    ("predict_linear", "rs"),
    ("histogram_quantile", "sv"),
    ("absent", "v"),
    ("time", ""),
];
/// Operators by how tightly they bind.
const OPERATORS: &[&[&str]] = &[&["or"], &["and", "unless"], &["==", "!=", "<=", ">=", "<", ">"], &["+", "-"], &["*", "/", "%"]];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Number(String),
    Duration(String),
    Text(String),
    Sign(&'static str),
}

/// Takes `expression` apart.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse(expression: &str) -> Result<Query, String> {
    let mut parser = Parser { tokens: tokens(expression)?, at: 0, query: Query::default() };
    parser.expression(0)?;
    match parser.tokens.get(parser.at) {
        None => Ok(parser.query),
        Some(token) => Err(format!("{token:?} follows the end")),
    }
}

fn tokens(expression: &str) -> Result<Vec<Token>, String> {
    const SIGNS: [&str; 20] =
        ["=~", "!~", "==", "!=", "<=", ">=", "=", "<", ">", "+", "-", "*", "/", "%", "(", ")", "{", "}", "[", "]"];
    let mut tokens = Vec::new();
    let mut rest = expression.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = |is_part: fn(char) -> bool| rest.find(|next| !is_part(next)).unwrap_or(rest.len());
        let (found, taken) = if first.is_ascii_alphabetic() || first == '_' {
            let end = length(|next| next.is_ascii_alphanumeric() || next == '_' || next == ':');
            (Token::Word(rest[..end].to_owned()), end)
        } else if first.is_ascii_digit() {
            let end = length(|next| next.is_ascii_alphanumeric() || next == '.');
            let text = rest[..end].to_owned();
            let digits = text.trim_end_matches(|unit: char| "smhdw".contains(unit));
            let is_duration = digits.len() + 1 == text.len() && digits.bytes().all(|digit| digit.is_ascii_digit());
            match text.parse::<f64>() {
                Ok(_) => (Token::Number(text), end),
                Err(_) if is_duration => (Token::Duration(text), end),
                Err(_) => return Err(format!("{text:?} is neither a number nor a duration")),
            }
        } else if first == '"' {
            let end = rest[1..].find('"').ok_or_else(|| format!("{rest:?} has no end"))?;
            (Token::Text(rest[1..=end].to_owned()), end + 2)
        } else if first == ',' {
            (Token::Sign(","), 1)
        } else {
            let sign = SIGNS.into_iter().find(|sign| rest.starts_with(sign)).ok_or_else(|| format!("{rest:?} begins oddly"))?;
            (Token::Sign(sign), sign.len())
        };
        tokens.push(found);
        rest = rest[taken..].trim_start();
    }
    Ok(tokens)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    query: Query,
}

impl Parser {
    fn is_sign(&self, sign: &str) -> bool {
        matches!(self.tokens.get(self.at), Some(Token::Sign(given)) if *given == sign)
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.tokens.get(self.at), Some(Token::Word(given)) if given == word)
    }

    fn takes(&mut self, wanted: &str) -> bool {
        let found = self.is_sign(wanted) || self.is_word(wanted);
        self.at += usize::from(found);
        found
    }

    fn need(&mut self, sign: &str) -> Result<(), String> {
        if self.takes(sign) { Ok(()) } else { Err(format!("{:?} where {sign:?} is needed", self.tokens.get(self.at))) }
    }

    fn word(&mut self) -> Result<String, String> {
        match self.tokens.get(self.at) {
            Some(Token::Word(word)) => {
                self.at += 1;
                Ok(word.clone())
            }
            other => Err(format!("{other:?} where a name is needed")),
        }
    }

    fn expression(&mut self, level: usize) -> Result<(), String> {
        let Some(operators) = OPERATORS.get(level) else { return self.operand() };
        let first = self.query.selectors.len();
        self.expression(level + 1)?;
        while operators.iter().any(|operator| self.takes(operator)) {
            let is_matched = self.is_word("on") || self.is_word("ignoring");
            let place = self.query.groupings.len();
            if is_matched {
                self.at += 1;
                self.labels(first)?;
            }
            let of_this = self.query.groupings.len();
            self.expression(level + 1)?;
            let end = self.query.selectors.len();
            self.query.groupings[place..of_this].iter_mut().for_each(|(_, about)| about.end = end);
        }
        Ok(())
    }

    /// Labels in parentheses, about the selectors from `first` on.
    fn labels(&mut self, first: usize) -> Result<(), String> {
        self.need("(")?;
        loop {
            let label = self.word()?;
            self.query.groupings.push((label, first..self.query.selectors.len()));
            if !self.takes(",") {
                return self.need(")");
            }
        }
    }

    fn operand(&mut self) -> Result<(), String> {
        if self.takes("(") {
            self.expression(0)?;
            return self.need(")");
        }
        if let Some(Token::Number(_)) = self.tokens.get(self.at) {
            self.at += 1;
            return Ok(());
        }
        let name = self.word()?;
        if AGGREGATIONS.contains(&name.as_str()) {
            return self.aggregation(&name);
        }
        if self.takes("(") {
            return self.call(&name);
        }
        self.selector(name)
    }

    fn aggregation(&mut self, name: &str) -> Result<(), String> {
        let first = self.query.selectors.len();
        let place = self.query.groupings.len();
        if self.takes("by") || self.takes("without") {
            self.labels(first)?;
        }
        let of_this = self.query.groupings.len();
        self.need("(")?;
        self.expression(0)?;
        self.need(")")?;
        let end = self.query.selectors.len();
        if end == first {
            return Err(format!("{name} is of nothing"));
        }
        for (_, about) in &mut self.query.groupings[place..of_this] {
            about.end = end;
        }
        self.query.selectors[first..].iter_mut().for_each(|selector| selector.functions.push(name.to_owned()));
        Ok(())
    }

    fn call(&mut self, name: &str) -> Result<(), String> {
        let (_, arguments) = FUNCTIONS
            .iter()
            .find(|(known, _)| *known == name)
            .ok_or_else(|| format!("{name} is no function that is known here"))?;
        let first = self.query.selectors.len();
        for (number, kind) in arguments.chars().enumerate() {
            if number > 0 {
                self.need(",")?;
            }
            let before = self.query.selectors.len();
            self.expression(0)?;
            let asked = &self.query.selectors[before..];
            let is_right = match kind {
                'r' => matches!(asked, [selector] if selector.is_range && selector.functions.is_empty()),
                's' => asked.is_empty(),
                _ => !asked.is_empty(),
            };
            if !is_right {
                return Err(format!("argument {} of {name} is not what it must be", number + 1));
            }
        }
        self.query.selectors[first..].iter_mut().for_each(|selector| selector.functions.push(name.to_owned()));
        self.need(")")
    }

    fn selector(&mut self, metric: String) -> Result<(), String> {
        let mut matchers = Vec::new();
        if self.takes("{") {
            while !self.takes("}") {
                let label = self.word()?;
                let Some(Token::Sign("=" | "!=" | "=~" | "!~")) = self.tokens.get(self.at) else {
                    return Err(format!("{label} is compared with {:?}", self.tokens.get(self.at)));
                };
                let Some(Token::Text(value)) = self.tokens.get(self.at + 1).cloned() else {
                    return Err(format!("{label} is compared with no text"));
                };
                self.at += 2;
                matchers.push(Matcher { label, value });
                if !self.takes(",") && !self.is_sign("}") {
                    return Err(format!("{:?} follows a matcher", self.tokens.get(self.at)));
                }
            }
        }
        let is_range = self.takes("[");
        if is_range {
            self.duration()?;
            self.need("]")?;
        }
        if self.takes("offset") {
            self.duration()?;
        }
        self.query.selectors.push(Selector { metric, matchers, functions: Vec::new(), is_range });
        Ok(())
    }

    fn duration(&mut self) -> Result<(), String> {
        match self.tokens.get(self.at) {
            Some(Token::Duration(_)) => {
                self.at += 1;
                Ok(())
            }
            other => Err(format!("{other:?} where a duration is needed")),
        }
    }
}
