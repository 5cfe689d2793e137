//! Plain sentences: who does what where, in what weather, and how many animals are there.

use super::{pick, pick_two};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

pub(super) const NAMES: [&str; 20] = [
    "Anna", "Ben", "Clara", "David", "Emma", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kim", "Lena", "Marco", "Nora",
    "Omar", "Paula", "Quinn", "Rosa", "Sam", "Tara",
];
pub(super) const PLACES: [&str; 10] = [
    "market", "school", "garden", "library", "station", "beach", "kitchen", "museum", "park", "bakery",
];
const ANIMALS: [&str; 10] = [
    "cat", "dog", "horse", "bird", "frog", "rabbit", "goat", "duck", "turtle", "cow",
];
const WEATHER: [&str; 8] = ["sunny", "rainy", "windy", "cold", "warm", "cloudy", "quiet", "foggy"];
const FOODS: [&str; 8] = ["bread", "soup", "rice", "cake", "salad", "cheese", "porridge", "jam"];
const ADJECTIVES: [&str; 10] = [
    "small", "old", "green", "happy", "tired", "brave", "hungry", "slow", "clever", "white",
];
const NUMBERS: [&str; 11] = [
    "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
];

/// Two to four sentences.
pub(super) fn several(rng: &mut ChaCha8Rng) -> String {
    let sentences: Vec<String> = (0..rng.random_range(2..=4)).map(|_| one(rng)).collect();
    sentences.join(" ")
}

fn one(rng: &mut ChaCha8Rng) -> String {
    let [who, other] = pick_two(rng, &NAMES);
    let (place, animal, adjective) = (pick(rng, &PLACES), pick(rng, &ANIMALS), pick(rng, &ADJECTIVES));
    let (weather, [food, dish]) = (pick(rng, &WEATHER), pick_two(rng, &FOODS));
    match rng.random_range(0..8) {
        0 => format!("The {adjective} {animal} sleeps near the {place}."),
        1 => format!("It is {weather} and {who} walks to the {place}."),
        2 => format!("{who} and {other} eat {food} with {dish}."),
        3 => format!("{who} reads a book about the {adjective} {animal}."),
        4 => format!("When it is {weather}, the {animal} stays in the {place}."),
        5 => format!("\"Where is the {animal}?\" asks {other}. \"In the {place},\" says {who}."),
        _ => {
            let least = rng.random_range(0..NUMBERS.len() - 1);
            let most = rng.random_range(least + 1..NUMBERS.len());
            let (least, most) = (NUMBERS[least], NUMBERS[most]);
            format!("{who} sees {least} {animal}s, {other} sees {most}. So {other} sees more {animal}s.")
        }
    }
}

/// A question that is not about numbers.
pub(super) fn question(rng: &mut ChaCha8Rng) -> String {
    let [who, other] = pick_two(rng, &NAMES);
    let (place, animal) = (pick(rng, &PLACES), pick(rng, &ANIMALS));
    if rng.random() {
        format!(
            "Question: {who} is in the {place}. {other} is not there. Who is in the {place}?\nAnswer: {who} is in the {place}."
        )
    } else {
        format!(
            "Question: The {animal} of {who} is in the {place}. Where is it?\nAnswer: The {animal} is in the {place}."
        )
    }
}
