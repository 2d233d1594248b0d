/** Schedules between a lowest and a highest sigma, without a model; each ends with 0. float32 as PyTorch. */
import { exp, expm1, linspace, round, sqrt } from "./float-math.ts";

export type SigmaRange = Readonly<{ steps: number; sigmaMin: number; sigmaMax: number }>;

/** Evenly spaced in sigma^(1/rho) (Karras et al. 2022, equation 5). */
export function karrasSigmas({
  steps,
  sigmaMin,
  sigmaMax,
  rho,
}: SigmaRange & Readonly<{ rho: number }>): Float32Array {
  const inverseMin = sigmaMin ** (1 / rho);
  const inverseMax = sigmaMax ** (1 / rho);
  const slope = round(inverseMin - inverseMax);
  return endedByZero(linspace(0, 1, steps), (ramp) =>
    round(round(round(inverseMax) + round(ramp * slope)) ** rho),
  );
}

/** Evenly spaced in log sigma. */
export function exponentialSigmas({ steps, sigmaMin, sigmaMax }: SigmaRange): Float32Array {
  return endedByZero(linspace(Math.log(sigmaMax), Math.log(sigmaMin), steps), exp);
}

/** A power of the way in log sigma. */
export function polyexponentialSigmas({
  steps,
  sigmaMin,
  sigmaMax,
  rho,
}: SigmaRange & Readonly<{ rho: number }>): Float32Array {
  const low = round(Math.log(sigmaMin));
  const width = round(Math.log(sigmaMax) - Math.log(sigmaMin));
  return endedByZero(linspace(1, 0, steps), (ramp) =>
    exp(round(round(round(ramp ** rho) * width) + low)),
  );
}

/** The continuous variance-preserving diffusion (Song et al. 2021). */
export function vpSigmas({
  steps,
  betaD,
  betaMin,
  epsilon,
}: Readonly<{ steps: number; betaD: number; betaMin: number; epsilon: number }>): Float32Array {
  return endedByZero(linspace(1, epsilon, steps), (time) => {
    const grown = round(round(round(time * time) * betaD) / 2);
    return sqrt(expm1(round(grown + round(betaMin * time))));
  });
}

function endedByZero(points: Float32Array, sigma: (point: number) => number): Float32Array {
  return Float32Array.from([...points].map(sigma).concat(0));
}
