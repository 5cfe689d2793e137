//! Whether two answers are the same answer, shape by shape.

use super::{
    agreement::{constant_value, proportional, same_value},
    expression::Expression,
    shape::{Order, Shape},
};

/// Whether `a` and `b` are one answer; `tolerance` is a relative difference granted to constants. Symmetric.
pub(super) fn same(a: &Shape, b: &Shape, tolerance: f64) -> bool {
    let both = |a: &Shape, b: &Shape| same(a, b, tolerance);
    let all = |a: &[Shape], b: &[Shape]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| both(a, b));
    match (a, b) {
        (Shape::Value { .. }, Shape::Value { .. }) => same_quantity(a, b, tolerance),
        (Shape::Opaque(a), Shape::Opaque(b)) => a == b,
        (Shape::List(a), Shape::List(b)) | (Shape::Union(a), Shape::Union(b)) => in_any_order(a, b, tolerance),
        (Shape::List(one), other) | (other, Shape::List(one)) if one.len() == 1 => both(&one[0], other),
        (Shape::Tuple(open, a, close), Shape::Tuple(open_b, b, close_b)) => {
            open == open_b && close == close_b && all(a, b)
        }
        (Shape::Matrix(a), Shape::Matrix(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| all(a, b)),
        (Shape::Matrix(rows), Shape::Tuple('(', items, ')')) | (Shape::Tuple('(', items, ')'), Shape::Matrix(rows)) => {
            // a column is the vector that a tuple writes in one line
            let column = rows.iter().all(|row| row.len() == 1);
            column && rows.len() == items.len() && rows.iter().zip(items).all(|(row, x)| both(&row[0], x))
        }
        (Shape::Relation(a_sides, a_orders), Shape::Relation(b_sides, b_orders)) => {
            same_relation((a_sides, a_orders), (b_sides, b_orders), tolerance)
        }
        (Shape::Relation(sides, orders), other) | (other, Shape::Relation(sides, orders)) => {
            if let Some(interval) = interval(sides, orders) {
                return both(&interval, other);
            }
            defined(sides, orders, tolerance).is_some_and(|answer| both(answer, other))
        }
        _ => false,
    }
}

/// Each of `a` has a partner of its own in `b`.
fn in_any_order(a: &[Shape], b: &[Shape], tolerance: f64) -> bool {
    let mut left: Vec<&Shape> = b.iter().collect();
    a.len() == b.len()
        && a.iter().all(|x| {
            let partner = left.iter().position(|y| same(x, y, tolerance));
            partner.map(|i| left.swap_remove(i)).is_some()
        })
}

fn same_quantity(a: &Shape, b: &Shape, tolerance: f64) -> bool {
    let (
        Shape::Value {
            expression: x,
            unit: x_unit,
            percent: x_percent,
        },
        Shape::Value {
            expression: y,
            unit: y_unit,
            percent: y_percent,
        },
    ) = (a, b)
    else {
        return false;
    };
    if matches!((x_unit, y_unit), (Some(x), Some(y)) if x != y) {
        return false;
    }
    if same_value(x, y, tolerance) {
        return true; // 50 % answers a question that asks for percent, as 50 does
    }
    let hundredth = |e: &Expression| Expression::Product(vec![(e.clone(), false), (Expression::integer(100), true)]);
    match (x_percent, y_percent) {
        (true, false) => same_value(&hundredth(x), y, tolerance),
        (false, true) => same_value(x, &hundredth(y), tolerance),
        _ => false,
    }
}

/// What an equation says of the name on its left; of a chain of equal sides, any.
fn defined<'a>(sides: &'a [Shape], orders: &[Order], tolerance: f64) -> Option<&'a Shape> {
    if orders.iter().any(|order| *order != Order::Equal) {
        return None;
    }
    let values = if sides.first()?.is_head() { &sides[1..] } else { sides };
    let [first, rest @ ..] = values else { return None };
    rest.iter().all(|other| same(first, other, tolerance)).then_some(first)
}

fn same_relation(a: (&[Shape], &[Order]), b: (&[Shape], &[Order]), tolerance: f64) -> bool {
    let ((a_sides, a_orders), (b_sides, b_orders)) = (ascending(a.0, a.1), ascending(b.0, b.1));
    let aligned = a_orders == b_orders && a_sides.len() == b_sides.len();
    if aligned && a_sides.iter().zip(&b_sides).all(|(a, b)| same(a, b, tolerance)) {
        return true;
    }
    if let (Some(a_value), Some(b_value)) = (defined(a.0, a.1, tolerance), defined(b.0, b.1, tolerance))
        && (a.0[0].is_head() && b.0[0].is_head())
    {
        return same(&a.0[0], &b.0[0], tolerance) && same(a_value, b_value, tolerance);
    }
    if !aligned || a_sides.len() != 2 {
        return false;
    }
    let (Some(a), Some(b)) = (difference(&a_sides), difference(&b_sides)) else {
        return false;
    };
    let positive = !matches!(a_orders[0], Order::Equal | Order::Unequal);
    !(a.variables().is_empty() && b.variables().is_empty()) && proportional(&a, &b, positive)
}

/// Left side minus right side.
fn difference(sides: &[&Shape]) -> Option<Expression> {
    let [left, right] = sides else { return None };
    let right = Expression::Negative(Box::new(right.expression()?.clone()));
    Some(Expression::Sum(vec![left.expression()?.clone(), right]))
}

/// The sides with `<` and `≤` only, if one reading direction allows that.
fn ascending<'a>(sides: &'a [Shape], orders: &[Order]) -> (Vec<&'a Shape>, Vec<Order>) {
    let falls = orders
        .iter()
        .any(|order| matches!(order, Order::Greater | Order::GreaterOrEqual));
    if falls {
        return (
            sides.iter().rev().collect(),
            orders.iter().rev().map(|order| order.reversed()).collect(),
        );
    }
    (sides.iter().collect(), orders.to_vec())
}

/// The interval that an inequality with one variable and constant bounds describes.
fn interval(sides: &[Shape], orders: &[Order]) -> Option<Shape> {
    let (sides, orders) = ascending(sides, orders);
    let variable = |s: &Shape| matches!(s.expression(), Some(Expression::Variable(_)));
    let bound = |s: &Shape| s.expression().and_then(constant_value).is_some();
    let bracket = |order: Order, open: char, closed: char| match order {
        Order::Less => Some(open),
        Order::LessOrEqual => Some(closed),
        _ => None,
    };
    let infinity = |negative: bool| {
        let expression = Expression::Infinity;
        let expression = if negative {
            Expression::Negative(Box::new(expression))
        } else {
            expression
        };
        Shape::Value {
            expression,
            unit: None,
            percent: false,
        }
    };
    let (low, high, open, close) = match (sides.as_slice(), orders.as_slice()) {
        ([low, x, high], [left, right]) if variable(x) && bound(low) && bound(high) => (
            (*low).clone(),
            (*high).clone(),
            bracket(*left, '(', '[')?,
            bracket(*right, ')', ']')?,
        ),
        ([x, high], [order]) if variable(x) && bound(high) => {
            (infinity(true), (*high).clone(), '(', bracket(*order, ')', ']')?)
        }
        ([low, x], [order]) if variable(x) && bound(low) => {
            ((*low).clone(), infinity(false), bracket(*order, '(', '[')?, ')')
        }
        _ => return None,
    };
    Some(Shape::Tuple(open, vec![low, high], close))
}
