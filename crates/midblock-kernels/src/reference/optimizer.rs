//! AdamW (Loshchilov & Hutter 2019, algorithm 2).

use crate::AdamW;

pub(super) fn adamw(step: &AdamW, gradient: &[f64], parameter: &mut [f64], first: &mut [f64], second: &mut [f64]) {
    let [beta1, beta2] = step.betas;
    let correction = |beta: f64| 1.0 - beta.powf(step.t as f64);
    let moments = first.iter_mut().zip(second);
    for ((theta, gradient), (m, v)) in parameter.iter_mut().zip(gradient).zip(moments) {
        let g = step.gradient_scale * gradient;
        *m = beta1 * *m + (1.0 - beta1) * g;
        *v = beta2 * *v + (1.0 - beta2) * g * g;
        let (m_hat, v_hat) = (*m / correction(beta1), *v / correction(beta2));
        *theta = *theta * (1.0 - step.lr * step.decay) - step.lr * m_hat / (v_hat.sqrt() + step.eps);
    }
}
