//! Messages that came before they were asked for, and the questions that are open.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, Hasher, RandomState},
};

use super::{error::ClientError, input::ClientMessage};
use crate::{id::RequestId, limits::CLIENT_REQUESTS_MAX};

/// Where the answer to a question is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Awaited,
    /// Among the messages that wait.
    Kept,
}

/// Messages that wait in the order in which they came, and the questions that are open.
#[derive(Debug)]
pub(super) struct Inbox {
    messages: VecDeque<ClientMessage>,
    /// What they cost.
    size: usize,
    size_max: usize,
    /// Upper half of the numbers of all questions, so that a number of another side is hardly ever
    /// taken for one of them. It is no secret.
    tag: u32,
    asked: u32,
    open: HashMap<u64, Answer>,
    late_replies: u64,
}

impl Inbox {
    pub(super) fn new(size_max: usize) -> Self {
        let drawn = RandomState::new().build_hasher().finish();
        Self {
            messages: VecDeque::new(),
            size: 0,
            size_max,
            tag: u32::try_from(drawn >> 32).unwrap_or(0).max(1),
            asked: 0,
            open: HashMap::new(),
            late_replies: 0,
        }
    }

    /// Opens a question.
    pub(super) fn ask(&mut self) -> Result<RequestId, ClientError> {
        if self.open.len() >= CLIENT_REQUESTS_MAX {
            return Err(ClientError::TooManyRequests {
                limit: CLIENT_REQUESTS_MAX,
            });
        }
        // A number comes again after 2^32 questions. One that is still open then is passed over.
        let number = loop {
            self.asked = self.asked.wrapping_add(1);
            let number = u64::from(self.tag) << 32 | u64::from(self.asked);
            if !self.open.contains_key(&number) {
                break number;
            }
        };
        self.open.insert(number, Answer::Awaited);
        Ok(RequestId(number))
    }

    /// The question is not waited for any more: an answer that comes now is a late one.
    pub(super) fn give_up(&mut self, id: RequestId) {
        self.open.remove(&id.0);
    }

    /// Whether the message is to be given out. The answer to a question that is not open is counted
    /// and thrown away.
    pub(super) fn accepts(&mut self, message: &ClientMessage) -> bool {
        let Some(number) = message.correlation() else {
            return true;
        };
        let is_late = number >> 32 == u64::from(self.tag) && !self.open.contains_key(&number);
        self.late_replies += u64::from(is_late);
        !is_late
    }

    /// Lets a message wait.
    pub(super) fn keep(&mut self, message: ClientMessage) {
        self.size += message.cost();
        if let Some(answer) = message.correlation().and_then(|n| self.open.get_mut(&n)) {
            *answer = Answer::Kept;
        }
        self.messages.push_back(message);
    }

    /// The message is given out: if it answers a question, that is no longer open.
    pub(super) fn hand_out(&mut self, message: ClientMessage) -> ClientMessage {
        if let Some(number) = message.correlation() {
            self.open.remove(&number);
        }
        message
    }

    /// The one that waits for longest.
    pub(super) fn pop(&mut self) -> Option<ClientMessage> {
        let message = self.messages.pop_front()?;
        self.size -= message.cost();
        Some(self.hand_out(message))
    }

    /// The answer to a question, from among the messages that wait; `None` if it did not come yet.
    pub(super) fn take(&mut self, id: RequestId) -> Result<Option<ClientMessage>, ClientError> {
        match self.open.get(&id.0) {
            None => return Err(ClientError::UnknownRequest),
            Some(Answer::Awaited) => return Ok(None),
            Some(Answer::Kept) => {}
        }
        let answers = |one: &ClientMessage| one.correlation() == Some(id.0);
        let position = self.messages.iter().position(answers);
        let message = position.and_then(|position| self.messages.remove(position));
        Ok(message.map(|message| {
            self.size -= message.cost();
            self.hand_out(message)
        }))
    }

    pub(super) fn is_full(&self) -> bool {
        self.size >= self.size_max && !self.messages.is_empty()
    }

    /// What the messages that wait cost.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn full(&self) -> ClientError {
        ClientError::InboxFull {
            size: self.size,
            limit: self.size_max,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn late_replies(&self) -> u64 {
        self.late_replies
    }
}
